#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/low_rank_pair_twins.h"

namespace quarry::kernels::avx512 {
namespace {

constexpr int kLanes = 16;

inline __m512i broadcast_group(const uint8_t* bytes) {
  int32_t bits;
  __builtin_memcpy(&bits, bytes, sizeof(bits));
  return _mm512_set1_epi32(bits);
}

// kRows rows by kStrips strips from `strip` on. y is where column 16 strip would be, and `masks`
// has the columns that are there.
template <int kRows, int kStrips>
inline void add_tile(const LowRankBytes& b, const uint8_t* u, int64_t row_bytes, int64_t strip,
                     const __mmask16* masks, float* y, int64_t ldy) {
  const uint8_t* codes = b.codes + strip * b.groups * 64;
  __m512i dot[kRows][kStrips];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const __m512i center = broadcast_group(u + r * row_bytes + 4 * b.groups + 4);
#pragma GCC unroll 8
    for (int s = 0; s < kStrips; ++s) dot[r][s] = center;
  }
  for (int64_t g = 0; g < b.groups; ++g) {
    __m512i column[kStrips];
#pragma GCC unroll 8
    for (int s = 0; s < kStrips; ++s) {
      column[s] = _mm512_loadu_si512(codes + (s * b.groups + g) * 64);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i row = broadcast_group(u + r * row_bytes + 4 * g);
#pragma GCC unroll 8
      for (int s = 0; s < kStrips; ++s) dot[r][s] = _mm512_dpbusd_epi32(dot[r][s], column[s], row);
    }
  }
  __m512 column_scales[kStrips];  // once: stores to y could change them for all that is known
#pragma GCC unroll 8
  for (int s = 0; s < kStrips; ++s) {
    column_scales[s] = _mm512_loadu_ps(b.scales + (strip + s) * kLanes);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    float scale;
    __builtin_memcpy(&scale, u + r * row_bytes + 4 * b.groups, sizeof(scale));
#pragma GCC unroll 8
    for (int s = 0; s < kStrips; ++s) {
      float* out = y + r * ldy + s * kLanes;
      const __m512 both = _mm512_mul_ps(column_scales[s], _mm512_set1_ps(scale));
      const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][s]), both,
                                         _mm512_maskz_loadu_ps(masks[s], out));
      _mm512_mask_storeu_ps(out, masks[s], sum);
    }
  }
}

template <int kStrips>
void add_strips(const LowRankBytes& b, const LowRankRows& rows, int64_t strip,
                const __mmask16* masks, float* y, int64_t ldy) {
  int64_t row = 0;
  const auto at = [&](int64_t r) { return rows.u + r * rows.row_bytes; };
  for (; row + 6 <= rows.count; row += 6) {
    add_tile<6, kStrips>(b, at(row), rows.row_bytes, strip, masks, y + row * ldy, ldy);
  }
  for (; row + 2 <= rows.count; row += 2) {
    add_tile<2, kStrips>(b, at(row), rows.row_bytes, strip, masks, y + row * ldy, ldy);
  }
  if (row < rows.count) {
    add_tile<1, kStrips>(b, at(row), rows.row_bytes, strip, masks, y + row * ldy, ldy);
  }
}

inline __mmask16 first_lanes(int64_t count) {
  return count >= kLanes ? 0xffff : static_cast<__mmask16>((uint32_t{1} << count) - 1);
}

// Of the columns of a strip those in [begin, end).
inline __mmask16 columns_of(int64_t strip, int64_t begin, int64_t end) {
  const int64_t first = begin > strip * kLanes ? begin - strip * kLanes : 0;
  const int64_t last = end < (strip + 1) * kLanes ? end - strip * kLanes : kLanes;
  return static_cast<__mmask16>((uint32_t{1} << last) - (uint32_t{1} << first));
}

}  // namespace

void add_low_rank_bytes(const LowRankBytes& b, const LowRankRows& rows, int64_t begin, int64_t end,
                        float* y, int64_t ldy) {
  const int64_t end_strip = (end + kLanes - 1) / kLanes;
  for (int64_t strip = begin / kLanes; strip < end_strip;) {
    const int count = end_strip - strip >= 4 ? 4 : 1;
    __mmask16 masks[4];
    for (int s = 0; s < count; ++s) masks[s] = columns_of(strip + s, begin, end);
    float* out = y + (strip * kLanes - begin);
    if (count == 4) {
      add_strips<4>(b, rows, strip, masks, out, ldy);
    } else {
      add_strips<1>(b, rows, strip, masks, out, ldy);
    }
    strip += count;
  }
}

void round_low_rank_row(const float* values, int64_t rank, uint8_t* u) {
  const int64_t bytes = (rank + 3) / 4 * 4;
  const auto lanes = [&](int64_t at) { return first_lanes(rank - at); };
  __m512 largest = _mm512_setzero_ps();
  bool is_finite = true;
  for (int64_t at = 0; at < rank; at += kLanes) {
    const __m512 size = _mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(at), values + at));
    const __m512 infinity = _mm512_set1_ps(__builtin_inff());
    is_finite = is_finite && _mm512_cmp_ps_mask(size, infinity, _CMP_LT_OQ) == 0xffff;
    largest = _mm512_max_ps(largest, size);
  }
  const float scale = is_finite ? _mm512_reduce_max_ps(largest) / 127.0f : __builtin_nanf("");
  const bool is_zero = !(scale > 0.0f);
  const __m512i most = _mm512_set1_epi32(127);
  int32_t sum = 0;
  for (int64_t at = 0; at < bytes; at += kLanes) {
    const __m512 value = _mm512_maskz_loadu_ps(lanes(at), values + at);
    const __m512i rounded = is_zero
                                ? _mm512_setzero_si512()
                                : _mm512_cvtps_epi32(_mm512_div_ps(value, _mm512_set1_ps(scale)));
    const __m512i code = _mm512_max_epi32(_mm512_min_epi32(rounded, most),
                                          _mm512_sub_epi32(_mm512_setzero_si512(), most));
    sum += _mm512_reduce_add_epi32(code);
    _mm_mask_storeu_epi8(u + at, first_lanes(bytes - at), _mm512_cvtepi32_epi8(code));
  }
  const int32_t center = -128 * sum;
  __builtin_memcpy(u + bytes, &scale, sizeof(scale));
  __builtin_memcpy(u + bytes + 4, &center, sizeof(center));
}

}  // namespace quarry::kernels::avx512
