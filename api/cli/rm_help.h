#pragma once

#include <string>

#include "indexer/build.h"

namespace quarry::cli {

// What to tell of a removed document that the next build reads again, with the command that leaves
// it out.
std::string rm_help(const std::string& index, const ReturningDocuments& returning);

}  // namespace quarry::cli
