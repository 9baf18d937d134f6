#pragma once

#include <cstdint>
#include <vector>

#include "generator/kernels/tree_attention.h"

namespace quarry::kernels {

// tree_attention and its backward for training in bfloat16: qkv is bfloat16, and so are the
// operands of every product; sums and the softmax are float32. A row's result is bit for bit what
// its path gives alone. Where the CPU does not multiply bfloat16, and with an odd D, they compute
// in float32.
void tree_attention_bfloat16(const TreeAttentionShape& shape,
                             const std::vector<TreeSegment>& segments, const uint16_t* qkv,
                             float* out);
void tree_attention_bfloat16_backward(const TreeAttentionShape& shape,
                                      const std::vector<TreeSegment>& segments, const uint16_t* qkv,
                                      const float* gradient, float* dqkv);

}  // namespace quarry::kernels
