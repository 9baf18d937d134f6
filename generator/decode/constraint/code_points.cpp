#include "generator/decode/constraint/code_points.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

#include "data/text/utf8.h"

namespace quarry {
namespace {

constexpr char32_t kLastCodePoint = 0x10FFFF;
constexpr char32_t kFirstSurrogate = 0xD800;
constexpr char32_t kLastSurrogate = 0xDFFF;

// Appends byte sequences for first .. last, which UTF-8 writes in the same number of bytes: a range
// is cut until every byte of it runs through a range of its own.
void append_byte_ranges(char32_t first, char32_t last, std::vector<Expr>& sequences) {
  std::string low;
  std::string high;
  append_utf8(low, first);
  append_utf8(high, last);
  for (size_t i = 1; i < low.size(); ++i) {
    const char32_t mask = (char32_t{1} << (6 * i)) - 1;
    if ((first & ~mask) == (last & ~mask)) continue;
    if ((first & mask) != 0) {
      append_byte_ranges(first, first | mask, sequences);
      append_byte_ranges((first | mask) + 1, last, sequences);
      return;
    }
    if ((last & mask) != mask) {
      append_byte_ranges(first, (last & ~mask) - 1, sequences);
      append_byte_ranges(last & ~mask, last, sequences);
      return;
    }
  }
  std::vector<Expr> bytes;
  for (size_t i = 0; i < low.size(); ++i) {
    bytes.push_back(range_expr(static_cast<uint8_t>(low[i]), static_cast<uint8_t>(high[i])));
  }
  sequences.push_back(sequence_expr(std::move(bytes)));
}

void append_utf8_sequences(const CodePointSet& set, std::vector<Expr>& sequences) {
  for (const auto& [first, last] : set.ranges()) {
    char32_t from = first;
    for (const char32_t end : {char32_t{0x7F}, char32_t{0x7FF}, char32_t{0xFFFF}, kLastCodePoint}) {
      if (from > end || from > last) continue;
      append_byte_ranges(from, std::min(last, end), sequences);
      from = end + 1;
    }
  }
}

std::string json_escape(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  char text[8];
  std::snprintf(text, sizeof text, "\\u%04x", static_cast<unsigned>(c));
  return text;
}

}  // namespace

CodePointSet::CodePointSet(std::initializer_list<Range> ranges) {
  for (const Range& range : ranges) add(range.first, range.last);
}

CodePointSet CodePointSet::all() {
  return {{0, kFirstSurrogate - 1}, {kLastSurrogate + 1, kLastCodePoint}};
}

void CodePointSet::add(char32_t first, char32_t last) {
  if (first <= kLastSurrogate && last >= kFirstSurrogate) {
    if (first < kFirstSurrogate) add(first, kFirstSurrogate - 1);
    if (last > kLastSurrogate) add(kLastSurrogate + 1, last);
    return;
  }
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    const bool touches = range.first <= last + 1 && first <= range.last + 1;
    if (!touches) {
      merged.push_back(range);
      continue;
    }
    first = std::min(first, range.first);
    last = std::max(last, range.last);
  }
  const auto place = std::find_if(merged.begin(), merged.end(),
                                  [first](const Range& range) { return range.first > first; });
  merged.insert(place, {first, last});
  ranges_ = std::move(merged);
}

void CodePointSet::add(const CodePointSet& other) {
  for (const Range& range : other.ranges_) add(range.first, range.last);
}

CodePointSet CodePointSet::complement() const {
  CodePointSet result;
  char32_t from = 0;
  for (const Range& range : ranges_) {
    if (range.first > from) result.add(from, range.first - 1);
    from = range.last + 1;
  }
  if (from <= kLastCodePoint) result.add(from, kLastCodePoint);
  return result;
}

CodePointSet CodePointSet::without(const CodePointSet& other) const {
  CodePointSet outside = complement();
  outside.add(other);
  return outside.complement();
}

Expr code_point_expr(const CodePointSet& set, TextForm form) {
  std::vector<Expr> sequences;
  if (form == TextForm::kPlain) {
    append_utf8_sequences(set, sequences);
    return choice_expr(std::move(sequences));
  }
  const CodePointSet escaped = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
  const CodePointSet plain = set.without(escaped);
  const CodePointSet rest = set.without(plain);
  append_utf8_sequences(plain, sequences);
  for (const auto& [first, last] : rest.ranges()) {
    for (char32_t c = first; c <= last; ++c) sequences.push_back(bytes_expr(json_escape(c)));
  }
  return choice_expr(std::move(sequences));
}

}  // namespace quarry
