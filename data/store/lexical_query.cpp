#include "data/store/lexical_query.h"

#include <utf8proc.h>

#include <algorithm>
#include <unordered_set>

namespace quarry {
namespace {

// A question longer than this says nothing more; it bounds the time of a pasted document.
constexpr size_t kMaxQueryWords = 64;

const std::unordered_set<std::string>& stop_words() {
  static const std::unordered_set<std::string> words = {
      "a",     "about", "also",  "an",   "and",   "are",   "as",     "at",    "be",
      "been",  "but",   "by",    "can",  "could", "did",   "do",     "does",  "for",
      "from",  "had",   "has",   "have", "he",    "her",   "his",    "how",   "i",
      "if",    "in",    "into",  "is",   "it",    "its",   "me",     "my",    "no",
      "not",   "of",    "on",    "or",   "our",   "she",   "should", "such",  "than",
      "that",  "the",   "their", "them", "then",  "there", "these",  "they",  "this",
      "those", "to",    "was",   "we",   "were",  "what",  "when",   "where", "which",
      "who",   "whom",  "whose", "why",  "will",  "with",  "would",  "you",   "your"};
  return words;
}

bool is_word_character(utf8proc_int32_t code_point) {
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CO:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::vector<std::string> lexical_words(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  const auto finish_word = [&] {
    if (!word.empty()) words.push_back(word);
    word.clear();
  };
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  for (utf8proc_ssize_t at = 0; at < size;) {
    utf8proc_int32_t code_point = -1;
    const utf8proc_ssize_t length = utf8proc_iterate(bytes + at, size - at, &code_point);
    if (length <= 0 || !is_word_character(code_point)) {
      finish_word();
      at += std::max<utf8proc_ssize_t>(length, 1);
      continue;
    }
    if (code_point < 0x80) {
      const char c = text[static_cast<size_t>(at)];
      word += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    } else {
      word.append(text, static_cast<size_t>(at), static_cast<size_t>(length));
    }
    at += length;
  }
  finish_word();
  return words;
}

std::string lexical_query(const std::string& text) {
  std::vector<std::string> words = lexical_words(text);
  const auto is_common = [](const std::string& word) { return stop_words().count(word) > 0; };
  const bool only_common = std::all_of(words.begin(), words.end(), is_common);
  if (words.size() > kMaxQueryWords) words.resize(kMaxQueryWords);
  std::unordered_set<std::string> seen;
  std::string query;
  const auto add = [&](const std::string& phrase) {
    if (!seen.insert(phrase).second) return;
    query += (query.empty() ? "\"" : " OR \"") + phrase + '"';
  };
  for (const std::string& word : words) {
    if (only_common || !is_common(word)) add(word);
  }
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    const bool both_common = is_common(words[i]) && is_common(words[i + 1]);
    if (words[i] != words[i + 1] && !both_common) add(words[i] + ' ' + words[i + 1]);
  }
  return query;
}

}  // namespace quarry
