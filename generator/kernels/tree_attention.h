#pragma once

#include <cstdint>
#include <vector>

#include "generator/kernels/attention.h"

namespace quarry::kernels {

// A run of rows that follows the rows of its parent. Segments form a forest in preorder (a parent
// before its children, a subtree in one piece) and cover the rows in order; a path from a root to a
// leaf is one token sequence. Sequences that begin alike so share the rows of their beginning.
struct TreeSegment {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t parent = -1;  // index of a segment, or -1
};

struct TreeAttentionShape {
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // K
  int64_t head_dim = 0;      // D
  float scale = 1.0f;        // of the scores
  // As in AttentionShape, over the rows of a path.
  int64_t window = 0;
  const float* alibi_slopes = nullptr;
  RelativeBias relative_bias;
};

// Causal grouped-query attention in which a row sees the rows before it on its own path and itself.
//   qkv [T, (H + 2 K) D]: queries, keys, values of each row  ->  out [T, H D], both contiguous.
// A row's result is bit for bit that of attention() over its path.
void tree_attention(const TreeAttentionShape& shape, const std::vector<TreeSegment>& segments,
                    const float* qkv, float* out);

// The gradient with respect to qkv, given the gradient of out. Scores are computed again, so that
// nothing of the forward pass needs keeping but qkv. dqkv [T, (H + 2 K) D] is overwritten. The
// result does not depend on the number of threads.
void tree_attention_backward(const TreeAttentionShape& shape,
                             const std::vector<TreeSegment>& segments, const float* qkv,
                             const float* gradient, float* dqkv);

}  // namespace quarry::kernels
