#pragma once

#include <stdint.h>

// The versions that elementwise_backward.cpp chooses from. One row at a time where the contract has
// rows.
#define QUARRY_DECLARE_ELEMENTWISE_BACKWARD                                                        \
  void rms_norm_backward(const float* x, const float* weight, float epsilon,                       \
                         const float* gradient, int64_t width, float* out);                        \
  void layer_norm_backward(const float* x, const float* weight, float epsilon,                     \
                           const float* gradient, int64_t width, float* out);                      \
  void gelu_backward(const float* x, const float* gradient, int64_t count, float* out);            \
  void silu_mul_backward(const float* gate, const float* up, const float* gradient, int64_t count, \
                         float* gate_out, float* up_out);                                          \
  void rope_half_backward(float* gradient, int64_t half, const float* cosine, const float* sine);  \
  float softmax(float* x, int64_t count, float scale);                                             \
  void softmax_backward(const float* p, const float* gradient, int64_t count, float scale,         \
                        float* out);                                                               \
  void add_scaled(const float* x, float factor, int64_t count, float* out);                        \
  void interleave(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* out);        \
  void float_to_bfloat16(const float* x, int64_t count, uint16_t* out);                            \
  void bfloat16_to_float(const uint16_t* x, int64_t count, float* out);

namespace quarry::kernels {
namespace portable {
QUARRY_DECLARE_ELEMENTWISE_BACKWARD
}
namespace avx2 {
QUARRY_DECLARE_ELEMENTWISE_BACKWARD
}
namespace avx512 {
QUARRY_DECLARE_ELEMENTWISE_BACKWARD
}
}  // namespace quarry::kernels
#undef QUARRY_DECLARE_ELEMENTWISE_BACKWARD
