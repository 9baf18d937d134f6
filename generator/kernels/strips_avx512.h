#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/matmul_twins.h"

// What the AVX-512 matmuls read and write strips with. Included by matmul*_avx512.cpp only.
namespace quarry::kernels::avx512 {
namespace {

inline __m512i load_codes(const uint8_t* p) {
  return _mm512_load_si512(reinterpret_cast<const void*>(p));
}
inline __m512i broadcast4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}
inline __m512 load_halves(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}
// The columns of y, from 0 on, that a strip with so many rows left has.
inline __mmask16 column_mask(int64_t columns) {
  return columns >= kStripRows ? 0xffff : static_cast<__mmask16>((uint32_t{1} << columns) - 1);
}

inline __m512 scale_rows(const MatrixView& w, int64_t strip, __m512 values) {
  return w.row_scales == nullptr
             ? values
             : _mm512_mul_ps(values, _mm512_load_ps(w.row_scales + strip * kStripRows));
}

}  // namespace
}  // namespace quarry::kernels::avx512
