#include <stdint.h>

#include "generator/kernels/elementwise_backward_body.h"
#include "generator/kernels/elementwise_backward_twins.h"
#include "generator/kernels/vec_avx512.h"

namespace quarry::kernels {
namespace {

template <>
inline void float_to_bfloat16_body<VecAvx512>(const float* x, int64_t count, uint16_t* out) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i))));
  }
  if (i == count) return;
  const auto mask = static_cast<__mmask16>((uint32_t{1} << (count - i)) - 1);
  const __m256bh rest = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
  _mm256_mask_storeu_epi16(out + i, mask, reinterpret_cast<__m256i>(rest));
}

}  // namespace
}  // namespace quarry::kernels

namespace quarry::kernels::avx512 {

QUARRY_DEFINE_ELEMENTWISE_BACKWARD(VecAvx512)

}  // namespace quarry::kernels::avx512
