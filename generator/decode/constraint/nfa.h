#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "generator/decode/constraint/expr.h"

namespace quarry {

// A grammar as nodes over bytes (Thompson 1968), with calls of rules. Immutable.
struct Nfa {
  struct Node {
    enum class Kind : uint8_t { kByte, kSplit, kCall, kFinal };
    Kind kind = Kind::kFinal;
    uint8_t low = 0;  // kByte: one byte of low .. high leads to `next`
    uint8_t high = 0;
    int32_t next = -1;   // kSplit: one way; kCall: where to go on behind the rule
    int32_t other = -1;  // kSplit: the other way, or -1; kCall: index of the rule
    // The fewest calls inside each other on some way from here to the rule's end; kNever: no way.
    int32_t need = kNever;
  };
  static constexpr int32_t kNever = 1 << 30;
  static constexpr int64_t kMostNodes = int64_t{1} << 20;

  std::vector<Node> nodes;
  std::vector<int32_t> rule_starts;  // node of each rule
  // Bytes of a class lead to the same nodes from everywhere.
  std::array<uint8_t, 256> class_of_byte{};
  int32_t num_classes = 0;

  // A call behind which the calling rule ends needs no memory of where it was made.
  bool is_tail_call(const Node& node) const {
    return nodes[static_cast<size_t>(node.next)].kind == Node::Kind::kFinal;
  }
};

// Throws kInvalidArgument when there would be more than kMostNodes.
Nfa build_nfa(const Grammar& grammar);

}  // namespace quarry
