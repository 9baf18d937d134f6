#pragma once

#include <cstdint>

namespace quarry::kernels {

// Gradients of elementwise.h's functions. All take row-major float32 [rows, width]; each gets what
// the forward function got and the gradient of its result. Outputs are overwritten and may be
// `gradient` itself. Each has a portable, an AVX2 and an AVX-512 version chosen at run time.

// rms_norm with respect to x.
void rms_norm_backward(const float* x, const float* weight, float epsilon, const float* gradient,
                       int64_t rows, int64_t width, float* out);
// layer_norm with respect to x.
void layer_norm_backward(const float* x, const float* weight, float epsilon, const float* gradient,
                         int64_t rows, int64_t width, float* out);
// gelu, within 2e-6 of |gradient|.
void gelu_backward(const float* x, const float* gradient, int64_t count, float* out);
// silu_mul with respect to gate and up.
void silu_mul_backward(const float* gate, const float* up, const float* gradient, int64_t count,
                       float* gate_out, float* up_out);
// rope (RopePairing::kHalf): the inverse rotation, in place.
void rope_backward(float* gradient, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
                   int64_t head_dim, int64_t ldx, const float* cos_table, const float* sin_table);

// The next run on the calling thread.
// x[0, count) becomes exp(s x) / sum(exp(s x)), s being `scale`. Returns log(sum(exp(s x))).
// REQUIRES: count >= 1, scale > 0.
float softmax(float* x, int64_t count, float scale = 1.0f);
// softmax with respect to x, given its result p: out = scale * p * (gradient - sum(p * gradient)).
void softmax_backward(const float* p, const float* gradient, int64_t count, float scale,
                      float* out);
// out += factor * x
void add_scaled(const float* x, float factor, int64_t count, float* out);
// out [count][2] = even[0], odd[0], even[1], odd[1] ...
void interleave(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* out);
// float32 <-> bfloat16, rounded to nearest even; what is no normal number may become 0.
void float_to_bfloat16(const float* x, int64_t count, uint16_t* out);
void bfloat16_to_float(const uint16_t* x, int64_t count, float* out);

}  // namespace quarry::kernels
