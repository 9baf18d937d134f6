#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/text/jinja/ast.h"

namespace quarry::jinja {

// Runs a parsed template with the given variables. Throws quarry::Error kInvalidArgument with the
// line for whatever the template does wrong or refuses, and when it exceeds its limits: 2 million
// steps, 64 MiB of output, calls 64 deep. Safe in many threads over one block.
std::string render(const Block& block, std::vector<std::pair<std::string, Value>> variables);

}  // namespace quarry::jinja
