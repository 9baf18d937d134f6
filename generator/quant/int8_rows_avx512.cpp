#include <immintrin.h>
#include <stdint.h>

#include "generator/quant/int8_rows_twins.h"

namespace quarry::avx512 {
namespace {

inline __mmask16 lanes(int64_t left) {
  return left >= 16 ? 0xffff : static_cast<__mmask16>((uint32_t{1} << left) - 1);
}

// Magnitudes of `threshold` or more, none for 0.
inline __mmask16 outliers_of(__m512 values, float threshold) {
  return threshold > 0.0f
             ? _mm512_cmp_ps_mask(_mm512_abs_ps(values), _mm512_set1_ps(threshold), _CMP_GE_OQ)
             : static_cast<__mmask16>(0);
}

inline __mmask64 byte_lanes(int64_t left) {
  return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

// Codes are multiplied as unsigned bytes, 128 more than they are.
inline __m512i flip() { return _mm512_set1_epi8(-128); }

// What that is too much for a row of weights.
inline int32_t surplus_of(const int8_t* weights, int64_t k) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t j = 0; j < k; j += 64) {
    sum = _mm512_dpbusd_epi32(sum, flip(), _mm512_maskz_loadu_epi8(byte_lanes(k - j), weights + j));
  }
  return _mm512_reduce_add_epi32(sum);
}

// The sums of four vectors.
inline __m128i four_sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

constexpr int kWeights = 4;  // that a tile takes at once

// kRows rows of codes by four rows of weights, some of which may be one and the same.
template <int kRows>
void dot_tile(const int8_t* codes, const int8_t* const* weights, const __m128i surplus, int64_t k,
              int32_t* out, int64_t ldo, __mmask8 wanted) {
  __m512i sum[kRows][kWeights];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kWeights; ++i) sum[r][i] = _mm512_setzero_si512();
  }
  for (int64_t j = 0; j < k; j += 64) {
    const __mmask64 mask = byte_lanes(k - j);
    __m512i w[kWeights];
#pragma GCC unroll 8
    for (int i = 0; i < kWeights; ++i) w[i] = _mm512_maskz_loadu_epi8(mask, weights[i] + j);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, codes + r * k + j), flip());
#pragma GCC unroll 8
      for (int i = 0; i < kWeights; ++i) sum[r][i] = _mm512_dpbusd_epi32(sum[r][i], x, w[i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const __m128i dots = four_sums(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
    _mm_mask_storeu_epi32(out + r * ldo, wanted, _mm_sub_epi32(dots, surplus));
  }
}

}  // namespace

void mark_outliers(const float* x, int64_t m, int64_t k, int64_t begin, int64_t end,
                   float threshold, uint8_t* is_outlier) {
  for (int64_t j = begin; j < end; j += 16) {
    const __mmask16 mask = lanes(end - j);
    __mmask16 found = 0;
    for (int64_t r = 0; r < m; ++r) {
      found = static_cast<__mmask16>(
          found | outliers_of(_mm512_maskz_loadu_ps(mask, x + r * k + j), threshold));
    }
    _mm_mask_storeu_epi8(is_outlier + j, mask, _mm_maskz_set1_epi8(found, 1));
  }
}

float round_row(const float* x, int64_t k, float threshold, int8_t* codes) {
  const auto load = [&](int64_t j) {
    const __m512 values = _mm512_maskz_loadu_ps(lanes(k - j), x + j);
    return _mm512_mask_blend_ps(outliers_of(values, threshold), values, _mm512_setzero_ps());
  };
  __m512 largest = _mm512_setzero_ps();
  // The larger of both, the second where one is no number: as std::max takes them.
  for (int64_t j = 0; j < k; j += 16) largest = _mm512_max_ps(_mm512_abs_ps(load(j)), largest);
  const float absmax = _mm512_reduce_max_ps(largest);
  float factor = absmax > 0.0f ? 127.0f * (1.0f / absmax) : 0.0f;
  if (!(factor <= 3.402823466e+38f)) factor = 0.0f;
  for (int64_t j = 0; j < k; j += 16) {
    const __m512i rounded = factor > 0.0f
                                ? _mm512_cvtps_epi32(_mm512_mul_ps(load(j), _mm512_set1_ps(factor)))
                                : _mm512_setzero_si512();
    _mm_mask_storeu_epi8(codes + j, lanes(k - j), _mm512_cvtepi32_epi8(rounded));
  }
  return absmax;
}

void dot_rows(const int8_t* codes, int64_t m, const int8_t* weights, int64_t num_weights, int64_t k,
              int32_t* out) {
  for (int64_t i = 0; i < num_weights; i += kWeights) {
    const int64_t count = num_weights - i < kWeights ? num_weights - i : kWeights;
    const auto wanted = static_cast<__mmask8>((1u << count) - 1);
    const int8_t* rows[kWeights];
    alignas(16) int32_t surplus[kWeights];
    for (int64_t w = 0; w < kWeights; ++w) {
      rows[w] = weights + (i + (w < count ? w : 0)) * k;
      surplus[w] = surplus_of(rows[w], k);
    }
    const __m128i less = _mm_load_si128(reinterpret_cast<const __m128i*>(surplus));
    int64_t r = 0;
    for (; r + 6 <= m; r += 6) {
      dot_tile<6>(codes + r * k, rows, less, k, out + r * num_weights + i, num_weights, wanted);
    }
    for (; r + 4 <= m; r += 4) {
      dot_tile<4>(codes + r * k, rows, less, k, out + r * num_weights + i, num_weights, wanted);
    }
    for (; r < m; ++r) {
      dot_tile<1>(codes + r * k, rows, less, k, out + r * num_weights + i, num_weights, wanted);
    }
  }
}

void scale_sums(const int32_t* sums, float row_absmax, const float* absmax, int64_t count,
                float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = lanes(count - i);
    const __m512 scale =
        _mm512_mul_ps(_mm512_set1_ps(row_absmax), _mm512_maskz_loadu_ps(mask, absmax + i));
    const __m512 values = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(mask, sums + i));
    _mm512_mask_storeu_ps(
        out + i, mask,
        _mm512_div_ps(_mm512_mul_ps(values, scale), _mm512_set1_ps(127.0f * 127.0f)));
  }
}

}  // namespace quarry::avx512
