#include "generator/decode/constraint/expr.h"

#include <utility>

namespace quarry {

Expr bytes_expr(std::string bytes) {
  Expr expr;
  expr.bytes = std::move(bytes);
  return expr;
}

Expr range_expr(uint8_t low, uint8_t high) {
  Expr expr;
  expr.kind = Expr::Kind::kRange;
  expr.low = low;
  expr.high = high;
  return expr;
}

Expr sequence_expr(std::vector<Expr> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  Expr expr;
  expr.kind = Expr::Kind::kSequence;
  expr.parts = std::move(parts);
  return expr;
}

Expr choice_expr(std::vector<Expr> parts) {
  if (parts.size() == 1) return std::move(parts.front());
  Expr expr;
  expr.kind = Expr::Kind::kChoice;
  expr.parts = std::move(parts);
  return expr;
}

Expr repeat_expr(Expr part, int64_t least, int64_t most) {
  Expr expr;
  expr.kind = Expr::Kind::kRepeat;
  expr.parts.push_back(std::move(part));
  expr.least = least;
  expr.most = most;
  return expr;
}

Expr optional_expr(Expr part) { return repeat_expr(std::move(part), 0, 1); }

Expr rule_expr(size_t rule) {
  Expr expr;
  expr.kind = Expr::Kind::kRule;
  expr.rule = rule;
  return expr;
}

ListExpr::ListExpr(Expr separator, Expr::Gaps gaps) {
  expr_.kind = Expr::Kind::kList;
  expr_.parts.push_back(std::move(separator));
  expr_.gaps = gaps;
}

void ListExpr::add(Expr item, Expr::Item how) {
  expr_.parts.push_back(std::move(item));
  expr_.items.push_back(how);
}

}  // namespace quarry
