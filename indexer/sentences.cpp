#include "indexer/sentences.h"

#include <algorithm>
#include <array>

#include "data/text/utf8.h"

namespace quarry {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_letter(char c) { return is_lower(c) || (c >= 'A' && c <= 'Z'); }

// A period behind these does not end a sentence.
bool is_abbreviation(std::string_view word) {
  static constexpr std::array<std::string_view, 24> kWords = {
      "Mr",  "Mrs", "Ms", "Dr", "Prof", "St",  "Jr",  "Sr",  "vs", "etc", "cf", "e.g",
      "i.e", "eg",  "ie", "No", "Fig",  "fig", "Vol", "vol", "pp", "al",  "Co", "approx"};
  return std::find(kWords.begin(), kWords.end(), word) != kWords.end() ||
         (word.size() == 1 && is_letter(word[0]));
}

class SentenceSplitter {
 public:
  SentenceSplitter(std::string_view text, size_t start, size_t end)
      : text_(text.substr(0, end)), at_(start), sentence_start_(start) {}

  std::vector<TextUnit> run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n') {
        at_newline();
      } else if (c == '.' || c == '!' || c == '?') {
        at_stop();
      } else if (is_wide_stop()) {
        at_ += 3;
        finish();
      } else {
        ++at_;
      }
    }
    finish();
    return std::move(units_);
  }

 private:
  // 。！？ (U+3002, U+FF01, U+FF1F)
  bool is_wide_stop() const {
    const std::string_view mark = text_.substr(at_, 3);
    return mark == "\xe3\x80\x82" || mark == "\xef\xbc\x81" || mark == "\xef\xbc\x9f";
  }

  // Ends the sentence before a blank line or a list item.
  void at_newline() {
    size_t next = at_ + 1;
    while (next < text_.size() && is_space(text_[next])) ++next;
    const bool blank = next < text_.size() && text_[next] == '\n';
    if (blank || is_list_item(next)) finish();
    at_ = std::max(next, at_ + 1);
    paragraph_ = paragraph_ || blank;
  }

  bool is_list_item(size_t at) const {
    if (at + 1 >= text_.size()) return false;
    const char c = text_[at];
    if ((c == '-' || c == '*' || c == '+') && text_[at + 1] == ' ') return true;
    size_t digits = at;
    while (digits < text_.size() && digits < at + 4 && is_digit(text_[digits])) ++digits;
    return digits > at && digits + 1 < text_.size() &&
           (text_[digits] == '.' || text_[digits] == ')') && text_[digits + 1] == ' ';
  }

  void at_stop() {
    const size_t stop = at_;
    while (at_ < text_.size() && (text_[at_] == '.' || text_[at_] == '!' || text_[at_] == '?')) {
      ++at_;
    }
    skip_closing_marks();
    if (at_ >= text_.size() || !(is_space(text_[at_]) || text_[at_] == '\n')) return;
    if (text_[stop] == '.' && at_ == stop + 1 && is_abbreviation(word_before(stop))) return;
    size_t next = at_;
    while (next < text_.size() && (is_space(text_[next]) || text_[next] == '\n')) ++next;
    if (next < text_.size() && is_lower(text_[next])) return;
    finish();
  }

  void skip_closing_marks() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      const std::string_view wide = text_.substr(at_, 3);
      if (c == '"' || c == '\'' || c == ')' || c == ']') {
        ++at_;
      } else if (wide == "\xe2\x80\x9d" || wide == "\xe2\x80\x99") {  // ” ’
        at_ += 3;
      } else {
        return;
      }
    }
  }

  std::string_view word_before(size_t stop) const {
    size_t start = stop;
    while (start > sentence_start_ && stop - start < 8 &&
           (is_letter(text_[start - 1]) || text_[start - 1] == '.')) {
      --start;
    }
    return text_.substr(start, stop - start);
  }

  // The sentence is [sentence_start_, at_) without the white space around it.
  void finish() {
    size_t start = sentence_start_;
    size_t end = at_;
    while (start < end && (is_space(text_[start]) || text_[start] == '\n')) ++start;
    while (end > start && (is_space(text_[end - 1]) || text_[end - 1] == '\n')) --end;
    sentence_start_ = at_;
    if (start == end) return;
    units_.push_back({static_cast<int64_t>(start), static_cast<int64_t>(end), paragraph_});
    paragraph_ = false;
  }

  std::string_view text_;
  size_t at_;
  size_t sentence_start_;
  bool paragraph_ = true;
  std::vector<TextUnit> units_;
};

}  // namespace

std::vector<TextUnit> split_sentences(std::string_view text, int64_t start, int64_t end) {
  return SentenceSplitter(text, static_cast<size_t>(start), static_cast<size_t>(end)).run();
}

}  // namespace quarry
