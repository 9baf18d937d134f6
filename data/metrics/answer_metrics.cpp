#include "data/metrics/answer_metrics.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <unordered_map>

namespace quarry {
namespace {

bool is_python_space(utf8proc_int32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

// What Python's \b takes for part of a word.
bool is_word_character(utf8proc_int32_t c) {
  if (c == '_') return true;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return true;
    default:
      return false;
  }
}

std::vector<utf8proc_int32_t> lower_without_punctuation(std::string_view text) {
  std::vector<utf8proc_int32_t> out;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  for (utf8proc_ssize_t at = 0; at < size;) {
    utf8proc_int32_t c = -1;
    const utf8proc_ssize_t length = utf8proc_iterate(bytes + at, size - at, &c);
    at += std::max<utf8proc_ssize_t>(length, 1);
    if (length <= 0) c = 0xFFFD;
    if (c < 0x80 && std::ispunct(static_cast<int>(c)) != 0) continue;
    if (c == 0x130) {  // the one code point whose simple lower case is not its full one
      out.push_back('i');
      out.push_back(0x307);
      continue;
    }
    out.push_back(utf8proc_tolower(c));
  }
  return out;
}

// Length of the article that is a whole word at `at`, or 0.
size_t article_length(const std::vector<utf8proc_int32_t>& text, size_t at) {
  static const std::array<std::string_view, 3> articles = {"an", "the", "a"};
  if (at > 0 && is_word_character(text[at - 1])) return 0;
  for (const std::string_view article : articles) {
    if (at + article.size() > text.size()) continue;
    if (!std::equal(article.begin(), article.end(), text.begin() + static_cast<int64_t>(at))) {
      continue;
    }
    const size_t end = at + article.size();
    if (end == text.size() || !is_word_character(text[end])) return article.size();
  }
  return 0;
}

std::vector<std::string> split_spaces(const std::string& normalized) {
  std::vector<std::string> tokens;
  size_t begin = 0;
  while (begin < normalized.size()) {
    const size_t end = std::min(normalized.find(' ', begin), normalized.size());
    tokens.push_back(normalized.substr(begin, end - begin));
    begin = end + 1;
  }
  return tokens;
}

double f1_of_tokens(const std::vector<std::string>& prediction,
                    const std::vector<std::string>& gold) {
  std::unordered_map<std::string, int64_t> left;
  for (const std::string& token : gold) ++left[token];
  int64_t shared = 0;
  for (const std::string& token : prediction) {
    const auto found = left.find(token);
    if (found == left.end() || found->second == 0) continue;
    --found->second;
    ++shared;
  }
  if (shared == 0) return 0.0;
  const double precision = static_cast<double>(shared) / static_cast<double>(prediction.size());
  const double recall = static_cast<double>(shared) / static_cast<double>(gold.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace

std::string normalize_answer(std::string_view text) {
  const std::vector<utf8proc_int32_t> characters = lower_without_punctuation(text);
  std::string out;
  bool pending_space = false;
  for (size_t i = 0; i < characters.size();) {
    if (const size_t article = article_length(characters, i); article > 0) {
      pending_space = true;
      i += article;
      continue;
    }
    if (is_python_space(characters[i])) {
      pending_space = true;
    } else {
      if (pending_space && !out.empty()) out += ' ';
      pending_space = false;
      std::array<utf8proc_uint8_t, 4> encoded{};
      const utf8proc_ssize_t length = utf8proc_encode_char(characters[i], encoded.data());
      out.append(reinterpret_cast<const char*>(encoded.data()), static_cast<size_t>(length));
    }
    ++i;
  }
  return out;
}

double exact_match(std::string_view prediction, const std::vector<std::string>& golds) {
  const std::string normalized = normalize_answer(prediction);
  return std::any_of(golds.begin(), golds.end(),
                     [&](const std::string& gold) { return normalize_answer(gold) == normalized; })
             ? 1.0
             : 0.0;
}

double token_f1(std::string_view prediction, const std::vector<std::string>& golds) {
  const std::vector<std::string> tokens = split_spaces(normalize_answer(prediction));
  double best = 0.0;
  for (const std::string& gold : golds) {
    best = std::max(best, f1_of_tokens(tokens, split_spaces(normalize_answer(gold))));
  }
  return best;
}

}  // namespace quarry
