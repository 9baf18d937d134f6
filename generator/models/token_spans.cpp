#include "generator/models/token_spans.h"

#include <algorithm>

namespace quarry {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.encode(text, Tokenizer::SpecialTokens::kNone);
}

// Appends ids and spans of text[begin, end): a word and the white space in front of it. A token
// begins where the word's beginning up to there has just the tokens before it.
void add_word(const Tokenizer& tokenizer, const std::string& text, size_t begin, size_t word,
              size_t end, std::vector<int32_t>& ids, std::vector<ByteSpan>& spans) {
  const std::vector<int32_t> own = encode(tokenizer, text.substr(begin, end - begin));
  std::vector<int64_t> border(own.size() + 1, -1);  // border[n]: where the n-th token ends
  for (size_t at = word + 1; at < end; ++at) {
    if (is_continuation(text[at])) continue;
    const std::vector<int32_t> head = encode(tokenizer, text.substr(begin, at - begin));
    const bool fits =
        head.size() <= own.size() && std::equal(head.begin(), head.end(), own.begin());
    if (fits && border[head.size()] < 0) border[head.size()] = static_cast<int64_t>(at);
  }
  border.front() = static_cast<int64_t>(word);
  border.back() = static_cast<int64_t>(end);
  for (size_t n = 0; n < own.size(); ++n) {
    size_t from = n;
    size_t to = n + 1;
    while (border[from] < 0) --from;
    while (border[to] < 0) ++to;
    spans.push_back({border[from], border[to]});
  }
  ids.insert(ids.end(), own.begin(), own.end());
}

}  // namespace

std::vector<ByteSpan> token_spans(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids;
  std::vector<ByteSpan> spans;
  for (size_t begin = 0; begin < text.size();) {
    size_t word = begin;
    while (word < text.size() && is_space(text[word])) ++word;
    size_t end = word;
    while (end < text.size() && !is_space(text[end])) ++end;
    add_word(tokenizer, text, begin, word, end, ids, spans);
    begin = end;
  }
  const std::vector<int32_t> whole = encode(tokenizer, text);
  if (ids == whole) return spans;
  return std::vector<ByteSpan>(whole.size(), {0, static_cast<int64_t>(text.size())});
}

}  // namespace quarry
