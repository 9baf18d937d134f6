#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "finetune/data/sequence.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// Builds token trees from training sequences: the tokens with which two sequences begin alike
// become rows once. Questions of the same passages so pay for the passages together, and every
// sequence still computes exactly what it would alone.
class TreePacker {
 public:
  // Rows of a tree; a single longer sequence still gets one of its own.
  explicit TreePacker(int64_t max_rows) : max_rows_(max_rows) {}

  // False, and unchanged, when the tree would pass max_rows or has another source. REQUIRES: a
  // target in the sequence.
  bool add(const TrainingSequence& sequence);
  bool empty() const { return num_sequences_ == 0; }
  int64_t num_rows() const { return static_cast<int64_t>(nodes_.size() + source_.size()); }
  // The tree of all that was added, every target weighing `target_weight`; the packer is then
  // empty.
  TokenTree take(float target_weight);

 private:
  // One token of a trie.
  struct Node {
    int32_t token;
    int64_t parent;  // -1: a root
    std::vector<int64_t> children;
  };
  struct Target {
    int64_t node;
    int32_t token;
  };
  int64_t find_child(int64_t parent, int32_t token) const;

  int64_t max_rows_;
  int64_t num_sequences_ = 0;
  std::vector<int32_t> source_;  // its rows count as well
  std::vector<Node> nodes_;
  std::vector<int64_t> roots_;
  std::vector<Target> targets_;
};

// The sequences in order as few trees of at most `max_rows` rows, or one tree each when they are
// not to share anything. Every target weighs `target_weight`.
std::vector<TokenTree> pack_sequences(const std::vector<TrainingSequence>& sequences,
                                      int64_t max_rows, bool share, float target_weight);

}  // namespace quarry
