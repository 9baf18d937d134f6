#include "generator/decode/constraint/regex_parser.h"

#include <optional>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

constexpr int kDeepestGroup = 100;
constexpr int64_t kMostRepeats = 100000;

CodePointSet digits() { return {{'0', '9'}}; }
CodePointSet word_characters() { return {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {'_', '_'}}; }
CodePointSet white_space() { return {{'\t', '\r'}, {' ', ' '}}; }

class RegexParser {
 public:
  RegexParser(const std::string& pattern, const RegexOptions& options)
      : pattern_(pattern), options_(options) {}

  Expr parse() {
    QUARRY_CHECK(is_valid_utf8(pattern_), ErrorCode::kInvalidArgument,
                 "the regular expression is not valid UTF-8");
    Expr expr = parse_alternatives(0);
    if (!at_end()) fail("\")\" closes no group");
    return expr;
  }

 private:
  bool at_end() const { return at_ >= pattern_.size(); }
  bool next_is(char c) const { return !at_end() && pattern_[at_] == c; }
  bool take(char c) {
    if (!next_is(c)) return false;
    ++at_;
    return true;
  }
  bool take(const char* text) {
    const std::string wanted = text;
    if (pattern_.compare(at_, wanted.size(), wanted) != 0) return false;
    at_ += wanted.size();
    return true;
  }
  [[noreturn]] void fail(const std::string& reason) const {
    throw_error(ErrorCode::kInvalidArgument, "regular expression \"", pattern_, "\", byte ", at_,
                ": ", reason);
  }

  Expr parse_alternatives(int depth) {
    if (depth > kDeepestGroup) fail(concat("groups nest deeper than ", kDeepestGroup));
    std::vector<Expr> alternatives;
    do {
      alternatives.push_back(depth == 0 ? parse_anchored() : parse_sequence(depth));
    } while (take('|'));
    return choice_expr(std::move(alternatives));
  }

  Expr parse_anchored() {
    const bool from_start = take('^');
    Expr middle = parse_sequence(0);
    const bool to_end = take('$');
    if (!at_end() && !next_is('|') && !next_is(')')) {
      fail("\"$\" is supported only at the end of an alternative");
    }
    if (options_.match == RegexOptions::Match::kWhole) return middle;
    const Expr anything =
        repeat_expr(code_point_expr(CodePointSet::all(), options_.form), 0, kUnbounded);
    std::vector<Expr> parts;
    if (!from_start) parts.push_back(anything);
    parts.push_back(std::move(middle));
    if (!to_end) parts.push_back(anything);
    return sequence_expr(std::move(parts));
  }

  Expr parse_sequence(int depth) {
    std::vector<Expr> parts;
    while (!at_end() && !next_is('|') && !next_is(')')) {
      if (next_is('$')) {
        if (depth == 0) break;
        fail("\"$\" inside a group is not supported");
      }
      Expr atom = parse_atom(depth);
      parts.push_back(parse_quantifier(std::move(atom)));
    }
    return sequence_expr(std::move(parts));
  }

  Expr parse_atom(int depth) {
    if (take('(')) return parse_group(depth);
    if (take('[')) return code_point_expr(parse_class(), options_.form);
    if (take('.')) {
      return code_point_expr(CodePointSet({{'\n', '\n'}}).complement(), options_.form);
    }
    if (take('\\')) return code_point_expr(parse_escape(), options_.form);
    if (next_is('^')) fail("\"^\" is supported only at the beginning of an alternative");
    if (next_is('*') || next_is('+') || next_is('?') || peek_counts()) {
      fail(concat("\"", pattern_[at_], "\" repeats nothing"));
    }
    return code_point_expr(one(next_code_point(pattern_, at_)), options_.form);
  }

  Expr parse_group(int depth) {
    if (take("?P<") || (pattern_.compare(at_, 3, "?<=") != 0 &&
                        pattern_.compare(at_, 3, "?<!") != 0 && take("?<"))) {
      const size_t end = pattern_.find('>', at_);
      if (end == std::string::npos) fail("the group's name has no end");
      at_ = end + 1;
    } else if (!take("?:") && next_is('?')) {
      fail("look-around, flags and other groups that begin with \"(?\" are not supported");
    }
    Expr expr = parse_alternatives(depth + 1);
    if (!take(')')) fail("a group has no end");
    return expr;
  }

  struct Counts {
    int64_t least;
    int64_t most;
  };

  // {m}, {m,} or {m,n} at the place where the parser stands; anything else in braces is text.
  std::optional<Counts> peek_counts() {
    const size_t start = at_;
    std::optional<Counts> counts = take_counts();
    at_ = start;
    return counts;
  }

  std::optional<Counts> take_counts() {
    const size_t start = at_;
    if (!take('{')) return std::nullopt;
    const std::optional<int64_t> least = take_number();
    if (least) {
      Counts counts{*least, *least};
      if (take(',')) counts.most = take_number().value_or(kUnbounded);
      if (take('}')) return counts;
    }
    at_ = start;
    return std::nullopt;
  }

  std::optional<int64_t> take_number() {
    const size_t start = at_;
    int64_t number = 0;
    for (; !at_end() && pattern_[at_] >= '0' && pattern_[at_] <= '9'; ++at_) {
      number = 10 * number + (pattern_[at_] - '0');
      if (number > kMostRepeats) fail(concat("repeats more than ", kMostRepeats, " times"));
    }
    if (at_ == start) return std::nullopt;
    return number;
  }

  Expr parse_quantifier(Expr atom) {
    Counts counts{};
    if (take('*')) {
      counts = {0, kUnbounded};
    } else if (take('+')) {
      counts = {1, kUnbounded};
    } else if (take('?')) {
      counts = {0, 1};
    } else if (const std::optional<Counts> taken = take_counts()) {
      counts = *taken;
      if (counts.most != kUnbounded && counts.most < counts.least) {
        fail(concat("{", counts.least, ",", counts.most, "} counts backwards"));
      }
    } else {
      return atom;
    }
    take('?');  // lazy: the same texts match
    if (next_is('*') || next_is('+') || next_is('?') || peek_counts()) {
      fail("a repeat behind a repeat is not supported");
    }
    return repeat_expr(std::move(atom), counts.least, counts.most);
  }

  static CodePointSet one(char32_t c) { return {{c, c}}; }

  CodePointSet parse_class() {
    CodePointSet set;
    const bool negated = take('^');
    bool is_first = true;
    while (is_first || !next_is(']')) {
      if (at_end()) fail("a class has no end");
      is_first = false;
      if (pattern_.compare(at_, 2, "[:") == 0) fail("classes like [:alpha:] are not supported");
      const CodePointSet from = parse_class_item();
      const bool is_range =
          next_is('-') && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']' && is_single(from);
      if (!is_range) {
        set.add(from);
        continue;
      }
      take('-');
      const CodePointSet to = parse_class_item();
      if (!is_single(to) || to.ranges()[0].first < from.ranges()[0].first) {
        fail("a range of characters runs backwards or has no end");
      }
      set.add(from.ranges()[0].first, to.ranges()[0].first);
    }
    take(']');
    return negated ? set.complement() : set;
  }

  static bool is_single(const CodePointSet& set) {
    return set.ranges().size() == 1 && set.ranges()[0].first == set.ranges()[0].last;
  }

  CodePointSet parse_class_item() {
    if (!take('\\')) return one(next_code_point(pattern_, at_));
    if (take('b')) return one('\b');
    return parse_escape();
  }

  // Behind the backslash.
  CodePointSet parse_escape() {
    if (at_end()) fail("the pattern ends with a backslash");
    const char32_t c = next_code_point(pattern_, at_);
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return digits().complement();
      case 'w':
        return word_characters();
      case 'W':
        return word_characters().complement();
      case 's':
        return white_space();
      case 'S':
        return white_space().complement();
      case 'n':
        return one('\n');
      case 't':
        return one('\t');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case '0':
        return one(0);
      case 'x':
        return one(take_hex(2));
      case 'u':
        return one(take_hex(4));
      default:
        break;
    }
    const bool is_letter_or_digit =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (is_letter_or_digit) {
      fail(concat("\"\\", static_cast<char>(c), "\" is not supported"));
    }
    return one(c);
  }

  char32_t take_hex(size_t num_digits) {
    const bool in_braces = take('{');
    char32_t value = 0;
    size_t count = 0;
    for (; !at_end() && count < (in_braces ? 6 : num_digits); ++count, ++at_) {
      const char c = pattern_[at_];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) break;
      value = 16 * value + static_cast<char32_t>(digit);
    }
    const bool complete = in_braces ? count > 0 && take('}') : count == num_digits;
    if (!complete || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      fail("a hexadecimal escape names no character");
    }
    return value;
  }

  const std::string& pattern_;
  const RegexOptions options_;
  size_t at_ = 0;
};

}  // namespace

Expr parse_regex(const std::string& pattern, const RegexOptions& options) {
  return RegexParser(pattern, options).parse();
}

}  // namespace quarry
