#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/elementwise_body.h"
#include "generator/kernels/elementwise_twins.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

void rms_norm(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  rms_norm_body<VecAvx2>(x, weight, epsilon, width, out);
}
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                int64_t width, float* out) {
  layer_norm_body<VecAvx2>(x, weight, bias, epsilon, width, out);
}
void silu_mul(const float* gate, const float* up, int64_t count, float* out) {
  silu_mul_body<VecAvx2>(gate, up, count, out);
}
void gelu(const float* x, int64_t count, float* out) { gelu_body<VecAvx2>(x, count, out); }
void add(const float* a, const float* b, int64_t count, float* out) {
  add_body<VecAvx2>(a, b, count, out);
}
void rope_half(float* x, int64_t half, const float* cosine, const float* sine) {
  rope_half_body<VecAvx2>(x, half, cosine, sine);
}
void half_to_float(const uint16_t* x, int64_t count, float* out) {
  half_to_float_body<VecAvx2>(x, count, out);
}
int64_t argmax(const float* x, int64_t count) { return argmax_body<VecAvx2>(x, count); }
bool has_nan(const float* x, int64_t count) { return has_nan_body(x, count); }
void float_to_half(const float* x, int64_t count, uint16_t* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; i < count; ++i) out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

}  // namespace quarry::kernels::avx2
