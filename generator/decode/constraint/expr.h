#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace quarry {

constexpr int64_t kUnbounded = -1;

// A set of texts, as bytes: a regular expression that may also call rules. Plain data; the
// functions below make it.
struct Expr {
  enum class Kind { kBytes, kRange, kSequence, kChoice, kRepeat, kList, kRule };
  // What may be left out of a list: any item, or only the items after some place.
  enum class Gaps { kAnywhere, kAtTheEnd };
  struct Item {
    bool required = true;
    bool repeats = false;  // may follow itself; the last item only
  };

  Kind kind = Kind::kBytes;
  std::string bytes;        // kBytes; empty: the empty text
  uint8_t low = 0;          // kRange: one byte of low .. high
  uint8_t high = 0;         //
  std::vector<Expr> parts;  // kSequence, kChoice; kRepeat: one; kList: separator, then the items
  int64_t least = 0;        // kRepeat
  int64_t most = 0;         // kRepeat; kUnbounded: no end
  std::vector<Item> items;  // kList, for parts[1 ..]
  Gaps gaps = Gaps::kAnywhere;  // kList
  size_t rule = 0;              // kRule
};

Expr bytes_expr(std::string bytes);
Expr range_expr(uint8_t low, uint8_t high);
// No parts: the empty text.
Expr sequence_expr(std::vector<Expr> parts);
// No parts: nothing matches.
Expr choice_expr(std::vector<Expr> parts);
Expr repeat_expr(Expr part, int64_t least, int64_t most);
Expr optional_expr(Expr part);
Expr rule_expr(size_t rule);

// Items in their order with a separator between those that are there.
class ListExpr {
 public:
  ListExpr(Expr separator, Expr::Gaps gaps);
  void add(Expr item, Expr::Item how);
  Expr take() { return std::move(expr_); }

 private:
  Expr expr_;
};

// Texts that match rules[0]. Rules may call each other and themselves.
struct Grammar {
  std::vector<Expr> rules;
};

}  // namespace quarry
