#pragma once

#include <immintrin.h>
#include <stdint.h>

// Sixteen floats of AVX-512. The interface of vec_portable.h.
namespace quarry::kernels {
namespace {

struct VecAvx512 {
  static constexpr int kWidth = 16;
  __m512 v;

  static VecAvx512 set1(float value) { return {_mm512_set1_ps(value)}; }
  static VecAvx512 zero() { return {_mm512_setzero_ps()}; }
  static VecAvx512 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static VecAvx512 load_first(const float* p, int64_t count) {
    return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
  }
  static VecAvx512 load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_first(float* p, int64_t count) const {
    _mm512_mask_storeu_ps(p, first_lanes(count), v);
  }
  float sum() const { return _mm512_reduce_add_ps(v); }
  float largest() const { return _mm512_reduce_max_ps(v); }

 private:
  static __mmask16 first_lanes(int64_t count) {
    return static_cast<__mmask16>((uint32_t{1} << count) - 1);
  }
};

inline VecAvx512 operator+(VecAvx512 a, VecAvx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline VecAvx512 operator-(VecAvx512 a, VecAvx512 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline VecAvx512 operator*(VecAvx512 a, VecAvx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline VecAvx512 operator/(VecAvx512 a, VecAvx512 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline VecAvx512 max(VecAvx512 a, VecAvx512 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline VecAvx512 min(VecAvx512 a, VecAvx512 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline VecAvx512 fma(VecAvx512 a, VecAvx512 b, VecAvx512 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline VecAvx512 fnma(VecAvx512 a, VecAvx512 b, VecAvx512 c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
inline VecAvx512 round_to_even(VecAvx512 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline VecAvx512 times_power_of_two(VecAvx512 value, VecAvx512 n) {
  return {_mm512_scalef_ps(value.v, n.v)};
}
inline VecAvx512 zero_below(VecAvx512 value, VecAvx512 x, float bound) {
  const __mmask16 keep = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_NLT_UQ);
  return {_mm512_maskz_mov_ps(keep, value.v)};
}
inline VecAvx512 select_by_sign(VecAvx512 x, VecAvx512 value, VecAvx512 other) {
  const __mmask16 positive = _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GE_OQ);
  return {_mm512_mask_mov_ps(other.v, positive, value.v)};
}
inline VecAvx512 abs(VecAvx512 a) { return {_mm512_abs_ps(a.v)}; }

inline void transpose_block(const VecAvx512* rows, float* out, int64_t out_stride) {
  __m512 pair[16];
  for (int i = 0; i < 8; ++i) {
    pair[2 * i] = _mm512_unpacklo_ps(rows[2 * i].v, rows[2 * i + 1].v);
    pair[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i].v, rows[2 * i + 1].v);
  }
  // quad[4 q + c], 128-bit lane l: rows 4q .. 4q+3 of column 4 l + c.
  __m512 quad[16];
  for (int q = 0; q < 4; ++q) {
    quad[4 * q] = _mm512_shuffle_ps(pair[4 * q], pair[4 * q + 2], 0x44);
    quad[4 * q + 1] = _mm512_shuffle_ps(pair[4 * q], pair[4 * q + 2], 0xee);
    quad[4 * q + 2] = _mm512_shuffle_ps(pair[4 * q + 1], pair[4 * q + 3], 0x44);
    quad[4 * q + 3] = _mm512_shuffle_ps(pair[4 * q + 1], pair[4 * q + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512 low01 = _mm512_shuffle_f32x4(quad[c], quad[4 + c], 0x44);
    const __m512 high01 = _mm512_shuffle_f32x4(quad[c], quad[4 + c], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(quad[8 + c], quad[12 + c], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(quad[8 + c], quad[12 + c], 0xee);
    _mm512_storeu_ps(out + c * out_stride, _mm512_shuffle_f32x4(low01, low23, 0x88));
    _mm512_storeu_ps(out + (4 + c) * out_stride, _mm512_shuffle_f32x4(low01, low23, 0xdd));
    _mm512_storeu_ps(out + (8 + c) * out_stride, _mm512_shuffle_f32x4(high01, high23, 0x88));
    _mm512_storeu_ps(out + (12 + c) * out_stride, _mm512_shuffle_f32x4(high01, high23, 0xdd));
  }
}

}  // namespace
}  // namespace quarry::kernels
