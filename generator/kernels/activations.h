#pragma once

#include <cstdint>

namespace quarry::kernels {

// Activation functions beside elementwise.h's and their gradients, over `count` float32 values.
// Outputs are overwritten and may be an input. Each has a portable, an AVX2 and an AVX-512 version
// chosen at run time.

// x * 0.5 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), GELU's approximation (Hendrycks & Gimpel
// 2016, arXiv:1606.08415).
void gelu_tanh(const float* x, int64_t count, float* out);
// out = gelu_tanh(gate) * up      (GEGLU, Shazeer 2020, arXiv:2002.05202)
void gelu_tanh_mul(const float* gate, const float* up, int64_t count, float* out);
// max(x, 0)
void relu(const float* x, int64_t count, float* out);

// out = gradient * f'(x). The gradient of relu at 0 is 0.
void gelu_backward(const float* x, const float* gradient, int64_t count, float* out);
void gelu_tanh_backward(const float* x, const float* gradient, int64_t count, float* out);
void relu_backward(const float* x, const float* gradient, int64_t count, float* out);
// gelu_tanh_mul with respect to gate and up.
void gelu_tanh_mul_backward(const float* gate, const float* up, const float* gradient,
                            int64_t count, float* gate_out, float* up_out);

}  // namespace quarry::kernels
