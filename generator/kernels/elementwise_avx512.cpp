#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/elementwise_body.h"
#include "generator/kernels/elementwise_twins.h"
#include "generator/kernels/vec_avx512.h"

namespace quarry::kernels::avx512 {

void rms_norm(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  rms_norm_body<VecAvx512>(x, weight, epsilon, width, out);
}
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                int64_t width, float* out) {
  layer_norm_body<VecAvx512>(x, weight, bias, epsilon, width, out);
}
void silu_mul(const float* gate, const float* up, int64_t count, float* out) {
  silu_mul_body<VecAvx512>(gate, up, count, out);
}
void gelu(const float* x, int64_t count, float* out) { gelu_body<VecAvx512>(x, count, out); }
void add(const float* a, const float* b, int64_t count, float* out) {
  add_body<VecAvx512>(a, b, count, out);
}
void rope_half(float* x, int64_t half, const float* cosine, const float* sine) {
  rope_half_body<VecAvx512>(x, half, cosine, sine);
}
void half_to_float(const uint16_t* x, int64_t count, float* out) {
  half_to_float_body<VecAvx512>(x, count, out);
}
int64_t argmax(const float* x, int64_t count) { return argmax_body<VecAvx512>(x, count); }
bool has_nan(const float* x, int64_t count) { return has_nan_body(x, count); }
void float_to_half(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t rest = count - i;
    const __mmask16 mask = rest >= 16 ? 0xffff : static_cast<__mmask16>((uint32_t{1} << rest) - 1);
    const __m256i halves =
        _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, x + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_mask_storeu_epi16(out + i, mask, halves);
  }
}

}  // namespace quarry::kernels::avx512
