#pragma once

#include <stdint.h>

// The versions that elementwise.cpp chooses from. One row at a time where the contract has rows.
#define QUARRY_DECLARE_ELEMENTWISE                                                              \
  void rms_norm(const float* x, const float* weight, float epsilon, int64_t width, float* out); \
  void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,        \
                  int64_t width, float* out);                                                   \
  void silu_mul(const float* gate, const float* up, int64_t count, float* out);                 \
  void gelu(const float* x, int64_t count, float* out);                                         \
  void add(const float* a, const float* b, int64_t count, float* out);                          \
  void rope_half(float* x, int64_t half, const float* cosine, const float* sine);               \
  void float_to_half(const float* x, int64_t count, uint16_t* out);                             \
  void half_to_float(const uint16_t* x, int64_t count, float* out);                             \
  int64_t argmax(const float* x, int64_t count);                                                \
  bool has_nan(const float* x, int64_t count);

namespace quarry::kernels {
namespace portable {
QUARRY_DECLARE_ELEMENTWISE
}
namespace avx2 {
QUARRY_DECLARE_ELEMENTWISE
}
namespace avx512 {
QUARRY_DECLARE_ELEMENTWISE
}
}  // namespace quarry::kernels
#undef QUARRY_DECLARE_ELEMENTWISE
