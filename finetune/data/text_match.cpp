#include "finetune/data/text_match.h"

#include <algorithm>

#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

bool is_quotation_mark(char32_t c) {
  return c == '"' || c == '\'' || c == '`' || c == 0xAB || c == 0xBB ||
         (c >= 0x2018 && c <= 0x201F);
}

}  // namespace

std::string match_key(const std::string& text) {
  std::string key;
  key.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (!is_white_space(c) && !is_quotation_mark(c)) append_lowercase(key, c);
  }
  return key;
}

bool holds_any(const std::string& key, const std::vector<std::string>& texts) {
  return std::any_of(texts.begin(), texts.end(), [&key](const std::string& text) {
    const std::string part = match_key(text);
    return !part.empty() && key.find(part) != std::string::npos;
  });
}

double share_of_words(const std::string& key, const std::string& text) {
  constexpr int64_t kLeastLetters = 4;
  int64_t words = 0;
  int64_t found = 0;
  for (size_t at = 0; at < text.size();) {
    std::string word;
    int64_t letters = 0;
    while (at < text.size()) {
      const char32_t c = next_code_point(text, at);
      if (is_white_space(c) || is_bert_punctuation(c)) break;
      append_lowercase(word, c);
      ++letters;
    }
    if (letters < kLeastLetters) continue;
    ++words;
    if (key.find(word) != std::string::npos) ++found;
  }
  return words == 0 ? 0.0 : static_cast<double>(found) / static_cast<double>(words);
}

}  // namespace quarry
