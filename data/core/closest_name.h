#pragma once

#include <optional>
#include <string>
#include <vector>

namespace quarry {

// Index of the name that `word` is probably a slip of: the one in fewest edits, the first of
// several. Nothing when none is near: more than a third of the word (of a short one half, at most
// 2) would change, or all of the name.
std::optional<size_t> closest_name(const std::string& word, const std::vector<std::string>& names);

}  // namespace quarry
