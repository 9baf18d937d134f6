#pragma once

#include <string>

#include "data/core/json.h"

namespace quarry::test {

// What is wrong with `value` under the schema, "" if nothing: a validator that knows nothing of how
// schemas are compiled.
std::string schema_error(const Json& schema, const Json& value, const Json& root);

// The same of a text that has to be one JSON value.
std::string schema_error(const std::string& schema, const std::string& text);

}  // namespace quarry::test
