#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/matmul_dense_body.h"
#include "generator/kernels/matmul_twins.h"
#include "generator/kernels/vec_avx2.h"

// Integer layouts by 16-bit multiply-add: no byte product can saturate, and activations keep all
// their bits. Quantized rows here are 16-bit integers in k groups of four ordered 0 2 1 3, so that
// the even and the odd bytes of a code vector each meet one broadcast pair.
namespace quarry::kernels::avx2 {
namespace {

inline __m256i load_codes(const uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m256i broadcast4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}
inline __m256 load_halves(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
}

// One strip with bytes for codes and float32 scales, [blocks][16] each.
struct Panel {
  const uint8_t* codes;
  const float* scales;
  const float* offsets;
};

Panel make_panel(const MatrixView& w, int64_t strip, uint8_t* scratch) {
  const uint8_t* source = w.codes + strip * w.strip_bytes;
  Panel panel = {source, nullptr, nullptr};
  if (w.layout == Layout::kNibbles) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int64_t b = 0; b < w.blocks; ++b) {
      for (int64_t j = 0; j < 256; j += 32) {
        const __m256i both = load_codes(source + b * 256 + j);
        uint8_t* out = scratch + b * 512 + j;
        _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_and_si256(both, low));
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + 256),
                           _mm256_and_si256(_mm256_srli_epi16(both, 4), low));
      }
    }
    panel.codes = scratch;
  }
  const int64_t count = w.blocks * kStripRows;
  float* scales = reinterpret_cast<float*>(scratch + w.k * kStripRows);
  float* offsets = scales + count;
  for (int64_t i = 0; i < count; i += 8) {
    const __m256 scale = load_halves(w.scales + strip * count + i);
    _mm256_store_ps(scales + i, scale);
    _mm256_store_ps(offsets + i, w.offsets != nullptr
                                     ? load_halves(w.offsets + strip * count + i)
                                     : _mm256_mul_ps(scale, _mm256_set1_ps(-w.center)));
  }
  panel.scales = scales;
  panel.offsets = offsets;
  return panel;
}

// kRows rows by one strip. kVectors: 64-byte code vectors per block.
template <int kVectors, int kRows>
void integer_micro(const MatrixView& w, const Panel& panel, const ActivationView& x, int64_t row,
                   int64_t strip, float* y, int64_t ldy) {
  const __m256i even_bytes = _mm256_set1_epi16(255);
  VecAvx2 total[kRows][2];
  for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = VecAvx2::zero();
  for (int64_t b = 0; b < w.blocks; ++b) {
    __m256i dot[kRows][2];
    for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    const uint8_t* values = x.codes + row * x.row_bytes + b * 8 * kVectors;
    for (int j = 0; j < kVectors; ++j) {
      __m256i even[2];
      __m256i odd[2];
      for (int half = 0; half < 2; ++half) {
        const __m256i codes = load_codes(panel.codes + (b * kVectors + j) * 64 + 32 * half);
        even[half] = _mm256_and_si256(codes, even_bytes);
        odd[half] = _mm256_srli_epi16(codes, 8);
      }
      for (int r = 0; r < kRows; ++r) {
        const __m256i value02 = broadcast4(values + r * x.row_bytes + 8 * j);
        const __m256i value13 = broadcast4(values + r * x.row_bytes + 8 * j + 4);
        for (int half = 0; half < 2; ++half) {
          dot[r][half] = _mm256_add_epi32(dot[r][half], _mm256_madd_epi16(even[half], value02));
          dot[r][half] = _mm256_add_epi32(dot[r][half], _mm256_madd_epi16(odd[half], value13));
        }
      }
    }
    for (int half = 0; half < 2; ++half) {
      const __m256 scale_w = _mm256_load_ps(panel.scales + b * kStripRows + 8 * half);
      const __m256 offset_w = _mm256_load_ps(panel.offsets + b * kStripRows + 8 * half);
      for (int r = 0; r < kRows; ++r) {
        const int64_t at = (row + r) * w.blocks + b;
        const __m256 scale = _mm256_mul_ps(scale_w, _mm256_set1_ps(x.scales[at]));
        __m256& sum = total[r][half].v;
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r][half]), scale, sum);
        sum = _mm256_fmadd_ps(offset_w, _mm256_set1_ps(x.sums[at]), sum);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store_strip<VecAvx2, 2>(total[r], y + (row + r) * ldy + strip * kStripRows,
                            w.n - strip * kStripRows);
  }
}

template <int kVectors>
void integer_tile_as(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy, uint8_t* scratch) {
  for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
    const Panel panel = make_panel(w, strip, scratch);
    int64_t row = range.row_begin;
    for (; row + 2 <= range.row_end; row += 2) {
      integer_micro<kVectors, 2>(w, panel, x, row, strip, y, ldy);
    }
    if (row < range.row_end) integer_micro<kVectors, 1>(w, panel, x, row, strip, y, ldy);
  }
}

// kRows rows by one strip: bfloat16 pairs widened to two float32 vectors.
template <int kRows>
void bfloat16_micro(const MatrixView& w, const ActivationView& x, int64_t row, int64_t strip,
                    float* y, int64_t ldy) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  const uint8_t* codes = w.codes + strip * w.strip_bytes;
  const uint8_t* values = x.codes + row * x.row_bytes;
  VecAvx2 total[kRows][2];
  for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = VecAvx2::zero();
  for (int64_t j = 0; j < (w.k + 1) / 2; ++j) {
    __m256 first[2];
    __m256 second[2];
    for (int half = 0; half < 2; ++half) {
      const __m256i pair = load_codes(codes + 64 * j + 32 * half);
      first[half] = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
      second[half] = _mm256_castsi256_ps(_mm256_and_si256(pair, upper));
    }
    for (int r = 0; r < kRows; ++r) {
      const __m256i pair = broadcast4(values + r * x.row_bytes + 4 * j);
      const __m256 value0 = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
      const __m256 value1 = _mm256_castsi256_ps(_mm256_and_si256(pair, upper));
      for (int half = 0; half < 2; ++half) {
        __m256& sum = total[r][half].v;
        sum = _mm256_fmadd_ps(first[half], value0, sum);
        sum = _mm256_fmadd_ps(second[half], value1, sum);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store_strip<VecAvx2, 2>(total[r], y + (row + r) * ldy + strip * kStripRows,
                            w.n - strip * kStripRows);
  }
}

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Eight values as 16-bit integers in the order 0 2 1 3, 4 6 5 7; adds them to *total.
inline void quantize_eight(const float* x, __m256 inverse, uint8_t* out, __m256i* total) {
  const __m256i values = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  *total = _mm256_add_epi32(*total, values);
  const __m128i packed =
      _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(packed, order));
}

inline int32_t sum_lanes(__m256i v) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

}  // namespace

void quantize_row(const float* x, int64_t k, int64_t block, uint8_t* codes, float* scales,
                  float* sums) {
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  for (int64_t b = 0; b < k / block; ++b) {
    const float* values = x + b * block;
    VecAvx2 largest = VecAvx2::zero();
    int finite = 0xff;
    for (int64_t i = 0; i < block; i += 8) {
      const VecAvx2 magnitude = abs(VecAvx2::load(values + i));
      finite &= _mm256_movemask_ps(_mm256_cmp_ps(magnitude.v, infinity, _CMP_LT_OQ));
      largest = max(largest, magnitude);
    }
    const float amax = largest.largest();
    const bool usable = finite == 0xff;
    float inverse = usable && amax > 0.0f ? static_cast<float>(kActivationMax) / amax : 0.0f;
    if (!(inverse <= 3.402823466e+38f)) inverse = 0.0f;
    scales[b] = usable ? amax / static_cast<float>(kActivationMax) : __builtin_nanf("");
    __m256i total = _mm256_setzero_si256();
    for (int64_t i = 0; i < block; i += 8) {
      uint8_t* out = codes + 2 * (b * block + i);
      if (inverse > 0.0f) {
        quantize_eight(values + i, _mm256_set1_ps(inverse), out, &total);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_setzero_si128());
      }
    }
    sums[b] = scales[b] * static_cast<float>(sum_lanes(total));
  }
}

void bfloat16_row(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; ++i) out[i] = to_bfloat16(x[i]);
  if (k % 2 == 1) out[k] = 0;
}

void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                  int64_t ldy, uint8_t* scratch) {
  if (w.block == 32) {
    integer_tile_as<8>(w, x, range, y, ldy, scratch);
  } else {
    integer_tile_as<4>(w, x, range, y, ldy, scratch);
  }
}

void bfloat16_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                   int64_t ldy, uint8_t*) {
  for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
    int64_t row = range.row_begin;
    for (; row + 4 <= range.row_end; row += 4) bfloat16_micro<4>(w, x, row, strip, y, ldy);
    for (; row < range.row_end; ++row) bfloat16_micro<1>(w, x, row, strip, y, ldy);
  }
}

void float_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t*) {
  float_tile_body<VecAvx2, 6, 1>(w, x, range, y, ldy);
}

}  // namespace quarry::kernels::avx2
