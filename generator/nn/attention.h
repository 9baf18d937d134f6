#pragma once

#include <cstdint>
#include <vector>

#include "generator/kernels/tree_attention.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/workspace.h"

namespace quarry::nn {

// The heads of an attention layer, and what becomes of their scores.
struct AttentionHeads {
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // K
  int64_t head_dim = 0;      // D
  float scale = 0.0f;        // of the scores; 0: D^-1/2
  int64_t window = 0;        // last keys that a causal query sees, its own included; 0: all
  // Of attention with linear biases (kernels/attention.h), [H]; borrowed by what is recorded for
  // the backward pass, too. Null: none.
  const float* alibi_slopes = nullptr;
  // Of attention with biases by distance; borrowed likewise.
  kernels::RelativeBias relative_bias = {};
  // A bidirectional pass that keeps nothing for a gradient may round queries, keys, values and
  // probabilities to bfloat16, where the CPU multiplies it.
  bool rounds = false;
};

// Rows [begin, begin + num_tokens) of a step: the next tokens of one sequence.
struct SequenceSpan {
  int64_t begin = 0;
  int64_t num_tokens = 0;
  KvCache* cache = nullptr;  // borrowed; reserve() has made room
};

// Causal grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) of every sequence over its
// own cache.
//   qkv [T, (H + 2 K) D]: queries, keys, values of each row, rope applied  ->  [T, H D]
// Writes the new keys and values into layer `layer` of the caches; does not advance them.
Tensor cached_attention(const Tensor& qkv, const AttentionHeads& heads, int64_t layer,
                        const std::vector<SequenceSpan>& sequences, Workspace& workspace);

// Causal attention over a tree of rows (kernels/tree_attention.h), without a cache.
//   qkv [T, (H + 2 K) D], rope applied  ->  [T, H D].   Differentiable.
Tensor tree_attention(const Tensor& qkv, const AttentionHeads& heads,
                      const std::vector<kernels::TreeSegment>& segments, Workspace& workspace);

// Bidirectional attention inside each text; text i is rows [starts[i], starts[i + 1]).
//   qkv [T, 3 H D]  ->  [T, H D].   Differentiable.   REQUIRES: K == H.
Tensor bidirectional_attention(const Tensor& qkv, const AttentionHeads& heads,
                               const std::vector<int64_t>& starts, Workspace& workspace);

// Attention of every row over all rows that an encoder made of a source.
//   q [T, H D]   kv [S, 2 H D]: keys, then values of each row  ->  [T, H D].   Differentiable.
// REQUIRES: K == H, no biases.
Tensor cross_attention(const Tensor& q, const Tensor& kv, const AttentionHeads& heads,
                       Workspace& workspace);

// The same for the rows of every sequence over layer `layer` of its cache's memory.
Tensor cached_cross_attention(const Tensor& q, const AttentionHeads& heads, int64_t layer,
                              const std::vector<SequenceSpan>& sequences, Workspace& workspace);

}  // namespace quarry::nn
