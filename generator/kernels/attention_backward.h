#pragma once

#include <cstdint>
#include <vector>

#include "generator/kernels/attention.h"

namespace quarry::kernels {

// Attention without a mask, whose scores are computed again here, so that nothing of the forward
// pass needs keeping but its inputs. The results do not depend on the number of threads.
struct BidirectionalShape {
  int64_t num_heads = 0;  // H
  int64_t head_dim = 0;   // D
  float scale = 1.0f;     // of the scores
  RelativeBias relative_bias;
};

// The gradient of attention() inside each text: text i is rows [starts[i], starts[i + 1]) and each
// of its rows sees all of them.
//   qkv [T, 3 H D], gradient of the result [T, H D]  ->  dqkv [T, 3 H D], overwritten.
void bidirectional_attention_backward(const BidirectionalShape& shape,
                                      const std::vector<int64_t>& starts, const float* qkv,
                                      const float* gradient, float* dqkv);

// The gradient of attention() in which each of T rows sees all S rows of another text.
//   q [T, H D], kv [S, 2 H D]: keys, then values of each row; gradient of the result [T, H D]
//   ->  dq [T, H D], dkv [S, 2 H D], overwritten.   REQUIRES: no relative_bias.
void cross_attention_backward(const BidirectionalShape& shape, int64_t num_queries,
                              int64_t num_keys, const float* q, const float* kv,
                              const float* gradient, float* dq, float* dkv);

// scores[i] += factor * the bias of a key `first` + i places behind its query, for i < count.
void add_relative_bias(const RelativeBias& bias, int64_t head, float factor, int64_t first,
                       int64_t count, float* scores);

}  // namespace quarry::kernels
