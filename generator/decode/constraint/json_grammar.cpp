#include "generator/decode/constraint/json_grammar.h"

#include <algorithm>
#include <map>
#include <utility>

#include "data/text/utf8.h"
#include "generator/decode/constraint/code_points.h"

namespace quarry {
namespace {

Expr digits(int64_t least, int64_t most) { return repeat_expr(range_expr('0', '9'), least, most); }

Expr one_of(const CodePointSet& set) { return code_point_expr(set, TextForm::kPlain); }

Expr hex_digits(int64_t count) {
  return repeat_expr(one_of({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}), count, count);
}

// Characters that stand in a string as they are.
CodePointSet plain_characters() {
  return CodePointSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).complement();
}

// Numbers of equally many digits from low to high.
Expr digit_range(const std::string& low, const std::string& high) {
  if (low.empty()) return bytes_expr("");
  const auto rest = static_cast<int64_t>(low.size()) - 1;
  const std::string zeros(static_cast<size_t>(rest), '0');
  const std::string nines(static_cast<size_t>(rest), '9');
  auto first = static_cast<uint8_t>(low[0]);
  auto last = static_cast<uint8_t>(high[0]);
  const auto from = [](uint8_t digit, Expr tail) {
    return sequence_expr({range_expr(digit, digit), std::move(tail)});
  };
  if (first == last) return from(first, digit_range(low.substr(1), high.substr(1)));
  std::vector<Expr> choices;
  if (low.substr(1) != zeros) choices.push_back(from(first++, digit_range(low.substr(1), nines)));
  if (high.substr(1) != nines) choices.push_back(from(last--, digit_range(zeros, high.substr(1))));
  if (first <= last)
    choices.push_back(sequence_expr({range_expr(first, last), digits(rest, rest)}));
  return choice_expr(std::move(choices));
}

// 0 <= least <= most
Expr whole_number(int64_t least, int64_t most) {
  std::vector<Expr> choices;
  int64_t smallest = 0;  // with that many digits
  int64_t largest = 9;
  while (smallest <= most) {
    const int64_t low = std::max(least, smallest);
    const int64_t high = std::min(most, largest);
    if (low <= high) choices.push_back(digit_range(std::to_string(low), std::to_string(high)));
    if (largest >= kLargestJsonInteger) break;
    smallest = largest + 1;
    largest = 10 * largest + 9;
  }
  return choice_expr(std::move(choices));
}

// A set of words by their characters.
struct WordTree {
  std::map<char32_t, WordTree> children;
  bool is_word = false;
};

// Continuations that do not make a word of the tree.
Expr other_words(const WordTree& tree, const Expr& any_character) {
  std::vector<Expr> choices;
  if (!tree.is_word) choices.push_back(bytes_expr(""));
  CodePointSet others = plain_characters();
  CodePointSet taken;
  for (const auto& [c, child] : tree.children) {
    taken.add(c, c);
    choices.push_back(sequence_expr({one_of({{c, c}}), other_words(child, any_character)}));
  }
  choices.push_back(
      sequence_expr({one_of(others.without(taken)), repeat_expr(any_character, 0, kUnbounded)}));
  return choice_expr(std::move(choices));
}

}  // namespace

Expr json_comma() { return sequence_expr({bytes_expr(","), optional_expr(bytes_expr(" "))}); }

Expr json_colon() { return sequence_expr({bytes_expr(":"), optional_expr(bytes_expr(" "))}); }

Expr json_number(bool may_be_negative) {
  std::vector<Expr> parts;
  if (may_be_negative) parts.push_back(optional_expr(bytes_expr("-")));
  parts.push_back(
      choice_expr({bytes_expr("0"), sequence_expr({range_expr('1', '9'), digits(0, 17)})}));
  parts.push_back(optional_expr(sequence_expr({bytes_expr("."), digits(1, 17)})));
  const Expr sign = optional_expr(choice_expr({bytes_expr("+"), bytes_expr("-")}));
  parts.push_back(optional_expr(
      sequence_expr({choice_expr({bytes_expr("e"), bytes_expr("E")}), sign, digits(1, 2)})));
  return sequence_expr(std::move(parts));
}

Expr json_integer(std::optional<int64_t> least, std::optional<int64_t> most) {
  const int64_t low = std::max(least.value_or(-kLargestJsonInteger), -kLargestJsonInteger);
  const int64_t high = std::min(most.value_or(kLargestJsonInteger), kLargestJsonInteger);
  std::vector<Expr> choices;
  if (low < 0 && low <= high) {
    choices.push_back(
        sequence_expr({bytes_expr("-"), whole_number(std::max<int64_t>(1, -high), -low)}));
  }
  if (high >= 0 && low <= high) choices.push_back(whole_number(std::max<int64_t>(0, low), high));
  return choice_expr(std::move(choices));
}

Expr json_character() {
  const Expr surrogate = one_of({{'d', 'd'}, {'D', 'D'}});
  const Expr below = choice_expr({
      sequence_expr(
          {one_of({{'0', '9'}, {'a', 'c'}, {'e', 'f'}, {'A', 'C'}, {'E', 'F'}}), hex_digits(3)}),
      sequence_expr({surrogate, range_expr('0', '7'), hex_digits(2)}),
  });
  const Expr pair = sequence_expr({surrogate, one_of({{'8', '9'}, {'a', 'b'}, {'A', 'B'}}),
                                   hex_digits(2), bytes_expr("\\u"), surrogate,
                                   one_of({{'c', 'f'}, {'C', 'F'}}), hex_digits(2)});
  CodePointSet short_escapes;
  for (const char c : std::string("\"\\/bfnrt")) {
    short_escapes.add(static_cast<char32_t>(c), static_cast<char32_t>(c));
  }
  return choice_expr({
      one_of(plain_characters()),
      sequence_expr({bytes_expr("\\"),
                     choice_expr({one_of(short_escapes),
                                  sequence_expr({bytes_expr("u"), choice_expr({below, pair})})})}),
  });
}

Expr json_string() {
  return sequence_expr(
      {bytes_expr("\""), repeat_expr(json_character(), 0, kUnbounded), bytes_expr("\"")});
}

Expr json_other_key(const std::vector<std::string>& names) {
  WordTree root;
  for (const std::string& name : names) {
    WordTree* tree = &root;
    for (size_t i = 0; i < name.size();) tree = &tree->children[next_code_point(name, i)];
    tree->is_word = true;
  }
  return sequence_expr(
      {bytes_expr("\""), other_words(root, one_of(plain_characters())), bytes_expr("\"")});
}

Expr json_any_array(size_t value) {
  ListExpr list(json_comma(), Expr::Gaps::kAtTheEnd);
  list.add(rule_expr(value), {false, true});
  return sequence_expr({bytes_expr("["), list.take(), bytes_expr("]")});
}

Expr json_any_object(size_t value) {
  ListExpr list(json_comma(), Expr::Gaps::kAtTheEnd);
  list.add(sequence_expr({json_string(), json_colon(), rule_expr(value)}), {false, true});
  return sequence_expr({bytes_expr("{"), list.take(), bytes_expr("}")});
}

Expr json_any_value(size_t value) {
  return choice_expr({json_any_object(value), json_any_array(value), json_string(),
                      json_number(true), bytes_expr("true"), bytes_expr("false"),
                      bytes_expr("null")});
}

}  // namespace quarry
