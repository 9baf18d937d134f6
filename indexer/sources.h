#pragma once

#include <string>
#include <vector>

#include "indexer/build.h"

namespace quarry {

// True for the path itself, what lies below it and records of it ("path#id").
bool is_under(const std::string& uri, const std::string& path);

// What a run looks at (`chosen`) and what the index remembers after it (`remembered`).
struct SourcePlan {
  std::vector<Source> chosen;
  std::vector<Source> remembered;
};
// Throws kNotFound when nothing is given and nothing remembered.
SourcePlan plan_sources(const PassageStore& store, const IndexOptions& options);

}  // namespace quarry
