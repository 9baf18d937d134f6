#include "data/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>

#include "data/core/error.h"
#include "data/text/unicode_overrides.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

template <size_t N>
bool contains(const CodePointRange (&ranges)[N], char32_t c) {
  const auto* range =
      std::lower_bound(std::begin(ranges), std::end(ranges), c,
                       [](const CodePointRange& r, char32_t value) { return r.last < value; });
  return range != std::end(ranges) && range->first <= c;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_ascii_only(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

void normalize_segment(std::string_view text, NormalizationForm form, std::string& out) {
  if (text.empty()) return;
  int options = UTF8PROC_STABLE;
  if (form == NormalizationForm::kNfc || form == NormalizationForm::kNfkc) {
    options |= UTF8PROC_COMPOSE;
  } else {
    options |= UTF8PROC_DECOMPOSE;
  }
  if (form == NormalizationForm::kNfkc || form == NormalizationForm::kNfkd) {
    options |= UTF8PROC_COMPAT;
  }
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &mapped, static_cast<utf8proc_option_t>(options));
  QUARRY_CHECK(length >= 0, ErrorCode::kInternal,
               "utf8proc_map failed on valid text: ", utf8proc_errmsg(length));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
}

}  // namespace

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t kind = category(c);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
         kind == UTF8PROC_CATEGORY_NO || contains(kNumericToo, c);
}

bool is_bert_control(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  if (c < 0x80) return c < 0x20 || c == 0x7F;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CS:
      return !contains(kNotBertControl, c);
    default:
      return false;
  }
}

bool is_bert_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
           (c >= 123 && c <= 126);
  }
  const utf8proc_category_t kind = category(c);
  if (kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO) {
    return !contains(kNotBertPunctuation, c);
  }
  return contains(kBertPunctuationToo, c);
}

bool is_bert_nonspacing_mark(char32_t c) {
  if (c < 0x300) return false;
  return category(c) == UTF8PROC_CATEGORY_MN ? !contains(kNotBertMark, c)
                                             : contains(kBertMarkToo, c);
}

bool is_combining_mark(char32_t c) {
  if (c < 0x300) return false;
  const utf8proc_category_t kind = category(c);
  if (kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME) {
    return !contains(kNotCombiningMark, c);
  }
  return contains(kCombiningMarkToo, c);
}

bool is_cjk_ideograph(char32_t c) {
  if (c < 0x3400) return false;
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B81F) ||
         (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x2F800 && c <= 0x2FA1F);
}

void append_lowercase(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    return;
  }
  if (c == 0x130) {  // the one code point whose lower case is two: i and a dot above
    out += "i\xCC\x87";
    return;
  }
  const auto* pair =
      std::lower_bound(std::begin(kLowercaseToo), std::end(kLowercaseToo), c,
                       [](const CodePointPair& p, char32_t value) { return p.from < value; });
  if (pair != std::end(kLowercaseToo) && pair->from == c) {
    append_utf8(out, pair->to);
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) append_lowercase(out, next_code_point(text, i));
  return out;
}

std::string normalize(std::string_view text, NormalizationForm form) {
  if (is_ascii_only(text)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  size_t segment = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, i);
    if (c < 0x7FD || !contains(kInertInNormalization, c)) continue;
    normalize_segment(text.substr(segment, start - segment), form, out);
    out.append(text, start, i - start);
    segment = i;
  }
  normalize_segment(text.substr(segment), form, out);
  return out;
}

std::pair<size_t, size_t> trimmed_range(std::string_view text) {
  size_t first = text.size();
  size_t behind_last = text.size();
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (is_white_space(next_code_point(text, i))) continue;
    if (first == text.size()) first = start;
    behind_last = i;
  }
  return {first, behind_last};
}

}  // namespace quarry
