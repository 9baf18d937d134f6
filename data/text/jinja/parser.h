#pragma once

#include <string>

#include "data/text/jinja/ast.h"

namespace quarry::jinja {

// Parses a whole template. Throws quarry::Error kInvalidArgument with the line and what was found
// and wanted; tags that we do not run are refused by name.
Block parse(const std::string& source);

}  // namespace quarry::jinja
