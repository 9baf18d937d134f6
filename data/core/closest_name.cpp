#include "data/core/closest_name.h"

#include <algorithm>
#include <numeric>

namespace quarry {
namespace {

// Levenshtein distance; the words are short.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row.back();
}

}  // namespace

std::optional<size_t> closest_name(const std::string& word, const std::vector<std::string>& names) {
  constexpr size_t kLongestWord = 200;  // no name of ours comes near it
  if (word.size() > kLongestWord) return std::nullopt;
  const size_t most = std::max(word.size() / 3, std::min<size_t>(2, word.size() / 2));
  std::optional<size_t> closest;
  size_t best = most + 1;
  for (size_t i = 0; i < names.size(); ++i) {
    const size_t distance = edit_distance(word, names[i]);
    if (distance >= best || distance >= names[i].size()) continue;
    best = distance;
    closest = i;
  }
  return closest;
}

}  // namespace quarry
