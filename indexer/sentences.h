#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace quarry {

// A piece of a text, [start, end) in bytes, without white space around it.
struct TextUnit {
  int64_t start = 0;
  int64_t end = 0;
  bool starts_paragraph = false;
};

// Sentences of [start, end) of a text: they end at . ! ? before a space and what may begin a
// sentence, at their full-width forms, at blank lines and before list items. Every character that
// is not white space is in exactly one.
std::vector<TextUnit> split_sentences(std::string_view text, int64_t start, int64_t end);

}  // namespace quarry
