#include "data/text/utf8.h"

#include <cstring>

namespace quarry {
namespace {

// Length of the run of ASCII bytes at `position`.
size_t ascii_run(std::string_view text, size_t position) {
  const size_t start = position;
  while (position + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + position, 8);
    if ((word & 0x8080808080808080ull) != 0) break;
    position += 8;
  }
  while (position < text.size() && static_cast<unsigned char>(text[position]) < 0x80) ++position;
  return position - start;
}

struct Sequence {
  char32_t code_point = kReplacementCharacter;
  size_t length = 1;       // bytes consumed
  bool valid = false;      // a whole well-formed sequence
  bool truncated = false;  // well-formed so far, but the text ends
};

// Reads one sequence by the ranges of Unicode's table 3-7.
Sequence read_sequence(std::string_view text, size_t position) {
  Sequence result;
  const auto lead = static_cast<unsigned char>(text[position]);
  if (lead < 0x80) {
    result.code_point = lead;
    result.valid = true;
    return result;
  }
  if (lead < 0xC2 || lead > 0xF4) return result;
  const size_t wanted = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte has a narrower range after E0, ED, F0 and F4.
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t value = lead & (0xFFu >> (wanted + 1));
  for (size_t i = 1; i < wanted; ++i) {
    if (position + i >= text.size()) {
      result.truncated = true;
      return result;
    }
    const auto byte = static_cast<unsigned char>(text[position + i]);
    if (byte < low || byte > high) return result;
    low = 0x80;
    high = 0xBF;
    value = (value << 6) | (byte & 0x3Fu);
    result.length = i + 1;
  }
  result.code_point = value;
  result.valid = true;
  return result;
}

}  // namespace

char32_t next_code_point(std::string_view text, size_t& position, bool& valid) {
  const Sequence sequence = read_sequence(text, position);
  position += sequence.length;
  valid = sequence.valid;
  return sequence.code_point;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  size_t position = ascii_run(text, 0);
  while (position < text.size()) {
    const Sequence sequence = read_sequence(text, position);
    if (!sequence.valid) return false;
    position += sequence.length;
    if (position < text.size() && static_cast<unsigned char>(text[position]) < 0x80) {
      position += ascii_run(text, position);
    }
  }
  return true;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t position = 0;
  while (position < text.size()) {
    const size_t run = ascii_run(text, position);
    out.append(text, position, run);
    position += run;
    if (position >= text.size()) break;
    append_utf8(out, next_code_point(text, position));
  }
  return out;
}

size_t complete_utf8_prefix(std::string_view text) {
  const size_t earliest = text.size() > 3 ? text.size() - 3 : 0;
  for (size_t start = text.size(); start > earliest;) {
    --start;
    const auto byte = static_cast<unsigned char>(text[start]);
    if (byte < 0x80) break;
    if (byte >= 0xC0) return read_sequence(text, start).truncated ? start : text.size();
  }
  return text.size();
}

int64_t count_code_points(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace quarry
