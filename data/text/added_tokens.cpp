#include "data/text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

bool is_word_character(char32_t c) {
  if (c == '_') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

size_t previous_character(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

bool word_ends_at(std::string_view text, size_t position) {
  if (position == 0) return false;
  size_t start = previous_character(text, position);
  return is_word_character(next_code_point(text, start));
}

bool word_starts_at(std::string_view text, size_t position) {
  return position < text.size() && is_word_character(next_code_point(text, position));
}

size_t skip_space_back(std::string_view text, size_t position, size_t limit) {
  while (position > limit) {
    const size_t start = previous_character(text, position);
    size_t cursor = start;
    if (!is_white_space(next_code_point(text, cursor))) break;
    position = start;
  }
  return std::max(position, limit);
}

size_t skip_space(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t next = position;
    if (!is_white_space(next_code_point(text, next))) break;
    position = next;
  }
  return position;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  // One that is not UTF-8 could only be found inside characters.
  const auto is_unusable = [](const AddedToken& token) {
    return token.content.empty() || !is_valid_utf8(token.content);
  };
  tokens_.erase(std::remove_if(tokens_.begin(), tokens_.end(), is_unusable), tokens_.end());
  const auto first_byte = [](const AddedToken& token) {
    return static_cast<unsigned char>(token.content.front());
  };
  std::stable_sort(tokens_.begin(), tokens_.end(), [&](const AddedToken& a, const AddedToken& b) {
    if (first_byte(a) != first_byte(b)) return first_byte(a) < first_byte(b);
    return a.content.size() > b.content.size();
  });
  ranges_.fill({0, 0});
  for (size_t i = 0; i < tokens_.size(); ++i) {
    auto& range = ranges_[first_byte(tokens_[i])];
    if (range.second == 0) range.first = i;
    range.second = i + 1;
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text, size_t position) const {
  const auto [begin, end] = ranges_[static_cast<unsigned char>(text[position])];
  for (size_t i = begin; i < end; ++i) {
    const std::string& content = tokens_[i].content;
    if (text.compare(position, content.size(), content) == 0) return &tokens_[i];
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, bool parse_special,
                             std::vector<Section>& sections) const {
  size_t covered = 0;  // everything before it is in `sections`
  size_t position = tokens_.empty() ? text.size() : 0;
  while (position < text.size()) {
    const AddedToken* token = longest_at(text, position);
    if (token == nullptr) {
      ++position;
      continue;
    }
    size_t start = position;
    size_t stop = position + token->content.size();
    position = stop;  // a match that is refused still uses up its text
    if (token->special && !parse_special) continue;
    if (token->single_word && (word_ends_at(text, start) || word_starts_at(text, stop))) continue;
    if (token->lstrip) start = skip_space_back(text, start, covered);
    if (token->rstrip) stop = skip_space(text, stop);
    if (start > covered) sections.push_back({text.substr(covered, start - covered), -1});
    sections.push_back({text.substr(start, stop - start), token->id});
    covered = stop;
  }
  if (covered < text.size()) sections.push_back({text.substr(covered), -1});
}

}  // namespace quarry
