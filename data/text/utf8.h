#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quarry {

constexpr char32_t kReplacementCharacter = 0xFFFD;

// Decodes the code point at `position` (REQUIRES: position < text.size()) and moves `position`
// behind it. An invalid sequence gives U+FFFD and consumes its maximal subpart (Unicode 15, table
// 3-8: what Python, Rust and the WHATWG decoder do), at least one byte. `valid` tells an invalid
// sequence from a U+FFFD that the text really holds.
char32_t next_code_point(std::string_view text, size_t& position, bool& valid);

inline char32_t next_code_point(std::string_view text, size_t& position) {
  const auto byte = static_cast<unsigned char>(text[position]);
  if (byte < 0x80) {
    ++position;
    return byte;
  }
  bool valid = false;
  return next_code_point(text, position, valid);
}

void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(std::string_view text);

// The text with each maximal subpart of an invalid sequence replaced by one U+FFFD.
std::string repair_utf8(std::string_view text);

// Length of the longest prefix that does not end inside a so far valid sequence: the bytes after it
// (0 to 3) may become a character when more arrive.
size_t complete_utf8_prefix(std::string_view text);

// REQUIRES: valid UTF-8.
int64_t count_code_points(std::string_view text);

// Bytes of the character that starts with `lead`. REQUIRES: a lead byte of valid UTF-8.
inline size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace quarry
