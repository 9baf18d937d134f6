#pragma once

#include <cstdint>
#include <vector>

namespace quarry::kernels {

struct BidirectionalShape {
  int64_t num_heads = 0;  // H
  int64_t head_dim = 0;   // D
  float scale = 1.0f;     // of the scores
};

// The gradient of attention() without a mask inside each text: text i is rows
// [starts[i], starts[i + 1]) and each of its rows sees all of them.
//   qkv [T, 3 H D], gradient of the result [T, H D]  ->  dqkv [T, 3 H D], overwritten.
// Scores are computed again, so that nothing of the forward pass needs keeping but qkv. The result
// does not depend on the number of threads.
void bidirectional_attention_backward(const BidirectionalShape& shape,
                                      const std::vector<int64_t>& starts, const float* qkv,
                                      const float* gradient, float* dqkv);

}  // namespace quarry::kernels
