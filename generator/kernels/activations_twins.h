#pragma once

#include <stdint.h>

// The versions that activations.cpp chooses from.
#define QUARRY_DECLARE_ACTIVATIONS                                                           \
  void gelu_tanh(const float* x, int64_t count, float* out);                                 \
  void gelu_tanh_mul(const float* gate, const float* up, int64_t count, float* out);         \
  void relu(const float* x, int64_t count, float* out);                                      \
  void gelu_backward(const float* x, const float* gradient, int64_t count, float* out);      \
  void gelu_tanh_backward(const float* x, const float* gradient, int64_t count, float* out); \
  void relu_backward(const float* x, const float* gradient, int64_t count, float* out);      \
  void gelu_tanh_mul_backward(const float* gate, const float* up, const float* gradient,     \
                              int64_t count, float* gate_out, float* up_out);

namespace quarry::kernels {
namespace portable {
QUARRY_DECLARE_ACTIVATIONS
}
namespace avx2 {
QUARRY_DECLARE_ACTIVATIONS
}
namespace avx512 {
QUARRY_DECLARE_ACTIVATIONS
}
}  // namespace quarry::kernels
#undef QUARRY_DECLARE_ACTIVATIONS
