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

}  // namespace quarry
