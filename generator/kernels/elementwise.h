#pragma once

#include <cstdint>

namespace quarry::kernels {

// All take row-major float32 [rows, width], contiguous unless a stride is named, and may run in
// place (out == x). Each has a portable, an AVX2 and an AVX-512 version chosen at run time.

// out = x / sqrt(mean(x^2) + epsilon) * weight      (Zhang & Sennrich 2019, arXiv:1910.07467)
void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out);
// out = (x - mean) / sqrt(var + epsilon) * weight + bias   (Ba et al. 2016); bias may be null.
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows,
                int64_t width, float* out);
// out = silu(gate) * up      (SwiGLU, Shazeer 2020, arXiv:2002.05202)
void silu_mul(const float* gate, const float* up, int64_t count, float* out);
// Exact GELU: x * 0.5 * (1 + erf(x / sqrt(2))), within 2e-6 absolute.
void gelu(const float* x, int64_t count, float* out);
// out = a + b
void add(const float* a, const float* b, int64_t count, float* out);
// x[r, :] += bias
void add_bias(float* x, const float* bias, int64_t rows, int64_t width);

// Rotary embedding (Su et al. 2021, arXiv:2104.09864) of heads x [T, H, D] (row stride ldx) in
// place. Row t is at position positions[t]. cos_table and sin_table are [max position + 1, D / 2].
// kHalf pairs (i, i + D/2) as Hugging Face llama does; kInterleaved pairs (2i, 2i + 1), the order
// that GGUF llama files expect of q and k.
enum class RopePairing { kHalf, kInterleaved };
void rope(float* x, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
          int64_t head_dim, int64_t ldx, const float* cos_table, const float* sin_table,
          RopePairing pairing);

// IEEE half <-> float32, round to nearest even.
void float_to_half(const float* x, int64_t count, uint16_t* out);
void half_to_float(const uint16_t* x, int64_t count, float* out);

// Index of the largest value, the lowest index on ties. REQUIRES: count >= 1.
int64_t argmax(const float* x, int64_t count);
bool has_nan(const float* x, int64_t count);

}  // namespace quarry::kernels
