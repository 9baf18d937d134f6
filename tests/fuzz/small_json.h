#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quarry::fuzz {

// A JSON value that keeps members in order and twice where they are twice, and numbers as written.
struct SmallJson {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  std::string text;    // of a string
  std::string number;  // of a number
  std::vector<SmallJson> items;
  std::vector<std::pair<std::string, SmallJson>> members;
};

// Nullopt for what is not one JSON value with nothing but white space around it. Looser than the
// grammar in what numbers and control characters it takes.
std::optional<SmallJson> parse_small_json(std::string_view text);

}  // namespace quarry::fuzz
