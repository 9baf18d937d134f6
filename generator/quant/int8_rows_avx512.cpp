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

// kRows rows of codes by kWeights rows of weights. The codes are multiplied as unsigned bytes, 128
// more than they are, which is taken off again.
template <int kRows, int kWeights>
void dot_tile(const int8_t* codes, const int8_t* weights, int64_t k, int32_t* out, int64_t ldo) {
  const __m512i flip = _mm512_set1_epi8(-128);
  __m512i sum[kRows][kWeights];
  __m512i excess[kWeights];
  for (int i = 0; i < kWeights; ++i) {
    excess[i] = _mm512_setzero_si512();
    for (int r = 0; r < kRows; ++r) sum[r][i] = _mm512_setzero_si512();
  }
  for (int64_t j = 0; j < k; j += 64) {
    const __mmask64 mask = k - j >= 64 ? ~uint64_t{0} : (uint64_t{1} << (k - j)) - 1;
    __m512i w[kWeights];
    for (int i = 0; i < kWeights; ++i) {
      w[i] = _mm512_maskz_loadu_epi8(mask, weights + i * k + j);
      excess[i] = _mm512_dpbusd_epi32(excess[i], flip, w[i]);
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512i x = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, codes + r * k + j), flip);
      for (int i = 0; i < kWeights; ++i) sum[r][i] = _mm512_dpbusd_epi32(sum[r][i], x, w[i]);
    }
  }
  for (int i = 0; i < kWeights; ++i) {
    const int32_t surplus = _mm512_reduce_add_epi32(excess[i]);
    for (int r = 0; r < kRows; ++r) {
      out[r * ldo + i] = _mm512_reduce_add_epi32(sum[r][i]) - surplus;
    }
  }
}

template <int kRows>
void dot_all_weights(const int8_t* codes, const int8_t* weights, int64_t num_weights, int64_t k,
                     int32_t* out) {
  int64_t i = 0;
  for (; i + 4 <= num_weights; i += 4) {
    dot_tile<kRows, 4>(codes, weights + i * k, k, out + i, num_weights);
  }
  for (; i < num_weights; ++i) {
    dot_tile<kRows, 1>(codes, weights + i * k, k, out + i, num_weights);
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
  int64_t r = 0;
  for (; r + 4 <= m; r += 4) {
    dot_all_weights<4>(codes + r * k, weights, num_weights, k, out + r * num_weights);
  }
  for (; r < m; ++r) {
    dot_all_weights<1>(codes + r * k, weights, num_weights, k, out + r * num_weights);
  }
}

}  // namespace quarry::avx512
