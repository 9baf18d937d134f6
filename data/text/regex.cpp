#include "data/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdio>

#include "data/core/error.h"
#include "data/text/unicode_overrides.h"

namespace quarry {
namespace {

constexpr char kSpaceSet[] =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";
constexpr char kNotSpaceSet[] =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-"
    "\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";
// Alphabetic beyond \p{L} and \p{Nl}, and the two joiners.
constexpr char kWordSet[] =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-"
    "\\x{1f169}\\x{1f170}-\\x{1f189}\\x{200c}\\x{200d}";

template <size_t N>
std::string property_set(const char* property, const CodePointRange (&ranges)[N]) {
  std::string set = property;
  char buffer[32];
  for (const CodePointRange& range : ranges) {
    std::snprintf(buffer, sizeof(buffer), "\\x{%x}-\\x{%x}", static_cast<unsigned>(range.first),
                  static_cast<unsigned>(range.last));
    set += buffer;
  }
  return set;
}

// What a class escape stands for inside [...]; empty when PCRE2's own meaning is right.
std::string set_of(const std::string& escape) {
  static const std::string letters = property_set("\\p{L}", kRegexLToo);
  static const std::string numbers = property_set("\\p{N}", kRegexNToo);
  if (escape == "\\s") return kSpaceSet;
  if (escape == "\\w") return kWordSet;
  if (escape == "\\p{L}" || escape == "\\pL") return letters;
  if (escape == "\\p{N}" || escape == "\\pN") return numbers;
  return "";
}

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDataFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

std::string translate_pattern(const std::string& pattern) {
  std::string out;
  int class_depth = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 >= pattern.size()) {
      if (c == '[' && class_depth > 0 && pattern.compare(i, 2, "[:") == 0) {
        const size_t end = std::min(pattern.find(":]", i), pattern.size() - 2);  // [:alpha:]
        out += pattern.substr(i, end + 2 - i);
        i = end + 1;
        continue;
      }
      if (c == '[') ++class_depth;
      // A set inside a set adds to it; PCRE2 has no such brackets.
      const bool is_nested = (c == '[' || c == ']') && class_depth > 1;
      QUARRY_CHECK(!is_nested || pattern.compare(i, 2, "[^") != 0, ErrorCode::kInvalidArgument,
                   "pattern \"", pattern, "\": a negated set inside a set is not supported");
      if (c == ']' && class_depth > 0) --class_depth;
      if (!is_nested) out += c;
      continue;
    }
    std::string escape = pattern.substr(i, 2);
    if ((escape[1] == 'p' || escape[1] == 'P') && i + 2 < pattern.size()) {
      const size_t end = pattern[i + 2] == '{' ? pattern.find('}', i) : i + 2;
      if (end != std::string::npos) escape = pattern.substr(i, end - i + 1);
    }
    i += escape.size() - 1;
    std::string positive = escape;
    const bool negated = escape[1] == 'S' || escape[1] == 'W' || escape[1] == 'P';
    if (negated) positive[1] = static_cast<char>(escape[1] + 32);
    const std::string set = set_of(positive);
    if (set.empty()) {
      out += escape;
    } else if (class_depth == 0) {
      out += (negated ? "[^" : "[") + set + "]";
    } else if (!negated) {
      out += set;
    } else {
      out += escape[1] == 'S' ? std::string(kNotSpaceSet) : escape;
    }
  }
  return out;
}

struct Regex::Impl {
  std::unique_ptr<pcre2_code, CodeFree> code;
};

Regex::Regex(const std::string& pattern) : impl_(std::make_unique<Impl>()) {
  const std::string translated = translate_pattern(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // \C would cut characters of UTF-8, which what comes later relies on.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                  translated.size(), kOptions, &error, &offset, nullptr));
  if (!impl_->code) {
    PCRE2_UCHAR reason[256];
    pcre2_get_error_message(error, reason, sizeof(reason));
    throw_error(ErrorCode::kInvalidArgument, "pre-tokenizer pattern \"", pattern,
                "\" does not compile: ", reinterpret_cast<const char*>(reason), " at offset ",
                offset, " of \"", translated, "\"");
  }
  // Without JIT support the interpreter runs the same code.
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

void Regex::find_all(std::string_view text, std::vector<Span>& spans) const {
  const std::unique_ptr<pcre2_match_data, MatchDataFree> match(
      pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  QUARRY_CHECK(match != nullptr, ErrorCode::kUnavailable, "no memory for a pattern match");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
  size_t covered = 0;
  size_t start = 0;
  while (start <= text.size() && !text.empty()) {
    int found = pcre2_match(impl_->code.get(), subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                            match.get(), nullptr);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(impl_->code.get(), subject, text.size(), start,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match.get(), nullptr);
    }
    // No more matches; a limit that some pathological text hits counts as no match.
    if (found < 0) break;
    const size_t begin = ends[0];
    const size_t end = ends[1];
    if (begin > covered) spans.push_back({covered, begin, false});
    if (end > begin) spans.push_back({begin, end, true});
    covered = end;
    start = end;
    if (end == begin) {  // an empty match: go on behind the next character
      ++start;
      while (start < text.size() && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) {
        ++start;
      }
    }
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
}

}  // namespace quarry
