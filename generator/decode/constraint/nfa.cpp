#include "generator/decode/constraint/nfa.h"

#include <algorithm>

#include "data/core/error.h"

namespace quarry {
namespace {

using Node = Nfa::Node;

// Builds from the end of an expression to its beginning: each part is told the node behind it.
class NfaBuilder {
 public:
  explicit NfaBuilder(Nfa& nfa) : nfa_(nfa) {}

  int32_t build(const Expr& expr, int32_t next) {
    switch (expr.kind) {
      case Expr::Kind::kBytes:
        for (size_t i = expr.bytes.size(); i > 0; --i) {
          const auto byte = static_cast<uint8_t>(expr.bytes[i - 1]);
          next = add_byte(byte, byte, next);
        }
        return next;
      case Expr::Kind::kRange:
        return add_byte(expr.low, expr.high, next);
      case Expr::Kind::kSequence:
        for (size_t i = expr.parts.size(); i > 0; --i) next = build(expr.parts[i - 1], next);
        return next;
      case Expr::Kind::kChoice:
        return build_choice(expr, next);
      case Expr::Kind::kRepeat:
        return build_repeat(expr, next);
      case Expr::Kind::kList:
        return build_list(expr, next);
      case Expr::Kind::kRule:
        return add_call(expr.rule, next);
    }
    return next;
  }

  int32_t add_final() { return add(Node()); }

 private:
  int32_t add(const Node& node) {
    QUARRY_CHECK(static_cast<int64_t>(nfa_.nodes.size()) < Nfa::kMostNodes,
                 ErrorCode::kInvalidArgument, "the constraint is too large: it takes more than ",
                 Nfa::kMostNodes, " states");
    nfa_.nodes.push_back(node);
    return static_cast<int32_t>(nfa_.nodes.size()) - 1;
  }

  int32_t add_byte(uint8_t low, uint8_t high, int32_t next) {
    Node node;
    node.kind = Node::Kind::kByte;
    node.low = low;
    node.high = high;
    node.next = next;
    return add(node);
  }

  int32_t add_split(int32_t next, int32_t other) {
    Node node;
    node.kind = Node::Kind::kSplit;
    node.next = next;
    node.other = other;
    return add(node);
  }

  int32_t add_call(size_t rule, int32_t next) {
    Node node;
    node.kind = Node::Kind::kCall;
    node.next = next;
    node.other = static_cast<int32_t>(rule);
    return add(node);
  }

  int32_t build_choice(const Expr& expr, int32_t next) {
    int32_t start = add_split(-1, -1);  // leads nowhere
    for (size_t i = expr.parts.size(); i > 0; --i) {
      start = add_split(build(expr.parts[i - 1], next), start);
    }
    return start;
  }

  int32_t build_repeat(const Expr& expr, int32_t next) {
    const Expr& part = expr.parts.front();
    int32_t start = next;
    if (expr.most == kUnbounded) {
      start = add_split(-1, next);
      nfa_.nodes[static_cast<size_t>(start)].next = build(part, start);
    }
    for (int64_t i = expr.least; i < expr.most; ++i) {
      const int32_t once_more = build(part, start);
      if (once_more == start) break;  // the part is the empty text
      start = add_split(once_more, next);
    }
    for (int64_t i = 0; i < expr.least; ++i) {
      const int32_t once_more = build(part, start);
      if (once_more == start) break;
      start = once_more;
    }
    return start;
  }

  // Each item has two ways in: `first` while the list is empty, `rest` behind a separator.
  int32_t build_list(const Expr& expr, int32_t next) {
    const Expr& separator = expr.parts.front();
    int32_t first = next;
    int32_t rest = next;
    for (size_t i = expr.items.size(); i > 0; --i) {
      const Expr& item = expr.parts[i];
      const auto [required, repeats] = expr.items[i - 1];
      const int32_t behind = repeats ? add_split(-1, rest) : rest;
      const int32_t start = build(item, behind);
      const int32_t separated = build(separator, start);
      if (repeats) nfa_.nodes[static_cast<size_t>(behind)].next = separated;
      const bool skips = !required && expr.gaps == Expr::Gaps::kAnywhere;
      const bool stops = !required && expr.gaps == Expr::Gaps::kAtTheEnd;
      first = add_split(start, skips ? first : stops ? next : -1);
      rest = add_split(separated, skips ? rest : stops ? next : -1);
    }
    return first;
  }

  Nfa& nfa_;
};

int32_t need_of(const Nfa& nfa, const Node& node) {
  const auto need_at = [&nfa](int32_t index) {
    return index < 0 ? Nfa::kNever : nfa.nodes[static_cast<size_t>(index)].need;
  };
  switch (node.kind) {
    case Node::Kind::kFinal:
      return 0;
    case Node::Kind::kByte:
      return need_at(node.next);
    case Node::Kind::kSplit:
      return std::min(need_at(node.next), need_at(node.other));
    case Node::Kind::kCall: {
      const int32_t inside = need_at(nfa.rule_starts[static_cast<size_t>(node.other)]);
      if (inside == Nfa::kNever) return Nfa::kNever;
      return std::max(nfa.is_tail_call(node) ? inside : inside + 1, need_at(node.next));
    }
  }
  return Nfa::kNever;
}

// Needs only fall. Nodes stand behind those that they lead to, but for loops and calls, so that few
// rounds do.
void find_needs(Nfa& nfa) {
  for (bool changed = true; changed;) {
    changed = false;
    for (Node& node : nfa.nodes) {
      const int32_t need = need_of(nfa, node);
      if (need >= node.need) continue;
      node.need = need;
      changed = true;
    }
  }
}

void find_classes(Nfa& nfa) {
  std::array<bool, 257> begins{};
  for (const Node& node : nfa.nodes) {
    if (node.kind != Node::Kind::kByte) continue;
    begins[node.low] = true;
    begins[size_t{node.high} + 1] = true;
  }
  int32_t index = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte > 0 && begins[byte]) ++index;
    nfa.class_of_byte[byte] = static_cast<uint8_t>(index);
  }
  nfa.num_classes = index + 1;
}

}  // namespace

Nfa build_nfa(const Grammar& grammar) {
  Nfa nfa;
  NfaBuilder builder(nfa);
  for (const Expr& rule : grammar.rules) {
    nfa.rule_starts.push_back(builder.build(rule, builder.add_final()));
  }
  find_needs(nfa);
  find_classes(nfa);
  return nfa;
}

}  // namespace quarry
