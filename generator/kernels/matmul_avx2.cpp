#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/matmul_dense_body.h"
#include "generator/kernels/matmul_twins.h"
#include "generator/kernels/vec_avx2.h"

// Integer layouts by 16-bit multiply-add: no product can saturate, and activations keep all their
// bits. Quantized rows here are 16-bit integers in k groups of four ordered 0 2 1 3, so that the
// even and the odd bytes of a code vector each meet one broadcast pair. For several rows of x a
// strip is first widened to the layout kWords, once for all of them.
namespace quarry::kernels::avx2 {
namespace {

// 12 sums, two weights and one activation fill the 16 registers.
constexpr int kRowsAtOnce = 6;

inline __m256i load_codes(const uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
inline void store_codes(uint8_t* p, __m256i codes) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), codes);
}
inline __m256i broadcast4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}
inline __m128i load_words(const int16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline __m256 load_halves(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
}
// The low and the high bytes of a codebook, in both halves of a vector.
struct Codebook {
  __m256i low;
  __m256i high;
};

inline Codebook load_codebook(const MatrixView& w) {
  alignas(32) uint8_t bytes[2][32];
  for (int i = 0; i < 32; ++i) {
    bytes[0][i] = static_cast<uint8_t>(w.codebook[i % 16] & 255);
    bytes[1][i] = static_cast<uint8_t>(w.codebook[i % 16] >> 8 & 255);
  }
  return {load_codes(bytes[0]), load_codes(bytes[1])};
}

constexpr bool has_codebook(Layout layout) {
  return layout == Layout::kCodebook || layout == Layout::kByteCodebook;
}

// The codebook's values of 32 nibbles: k 0 and 2 of eight rows, then k 1 and 3.
inline void look_up(const Codebook& codebook, __m256i nibbles, __m256i* words) {
  const __m256i low = _mm256_shuffle_epi8(codebook.low, nibbles);
  const __m256i high = _mm256_shuffle_epi8(codebook.high, nibbles);
  // Rows 0 1 4 5 and rows 2 3 6 7, k 0 2 1 3 each.
  const __m256 first = _mm256_castsi256_ps(_mm256_unpacklo_epi8(low, high));
  const __m256 second = _mm256_castsi256_ps(_mm256_unpackhi_epi8(low, high));
  words[0] = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
  words[1] = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd));
}

// The 16-bit codes of 32 packed bytes: vector 0 holds k 0 and 2 of eight rows, vector 1 k 1 and 3;
// of nibbles, vectors 2 and 3 hold the same of the k in the upper halves.
template <Layout kLayout>
inline void widen(const uint8_t* source, const Codebook& codebook, __m256i* words) {
  const __m256i codes = load_codes(source);
  if (kLayout == Layout::kBytes) {
    words[0] = _mm256_and_si256(codes, _mm256_set1_epi16(255));
    words[1] = _mm256_srli_epi16(codes, 8);
    return;
  }
  if (kLayout == Layout::kByteCodebook) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i bytes[2] = {
        _mm256_shuffle_epi8(codebook.low, _mm256_and_si256(codes, low)),
        _mm256_shuffle_epi8(codebook.low, _mm256_and_si256(_mm256_srli_epi16(codes, 4), low))};
    for (int i = 0; i < 2; ++i) {
      words[2 * i] = _mm256_and_si256(bytes[i], _mm256_set1_epi16(255));
      words[2 * i + 1] = _mm256_srli_epi16(bytes[i], 8);
    }
    return;
  }
  if (kLayout == Layout::kCodebook) {
    const __m256i low = _mm256_set1_epi8(15);
    look_up(codebook, _mm256_and_si256(codes, low), words);
    look_up(codebook, _mm256_and_si256(_mm256_srli_epi16(codes, 4), low), words + 2);
    return;
  }
  const __m256i low = _mm256_set1_epi16(15);
  words[0] = _mm256_and_si256(codes, low);
  words[1] = _mm256_and_si256(_mm256_srli_epi16(codes, 8), low);
  words[2] = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
  words[3] = _mm256_srli_epi16(codes, 12);
}

// Multiplies the sums of one row of x by the scales that the rows of a strip have.
inline void scale_rows(const MatrixView& w, int64_t strip, VecAvx2* total) {
  if (w.row_scales == nullptr) return;
  for (int half = 0; half < 2; ++half) {
    total[half] = total[half] * VecAvx2::load(w.row_scales + strip * kStripRows + 8 * half);
  }
}

// Sum of the products of one strip's codes with one row of x, added block by block to total.
// kGroups: groups of four k in a block.
template <Layout kLayout, int kGroups>
void integer_gemv(const MatrixView& w, const ActivationView& x, int64_t row, int64_t strip,
                  float* y) {
  constexpr int kVectors = kLayout == Layout::kBytes ? kGroups : kGroups / 2;
  const Codebook codebook = has_codebook(kLayout) ? load_codebook(w) : Codebook{};
  const uint8_t* codes = w.codes + strip * w.strip_bytes;
  const uint8_t* values = x.codes + row * x.row_bytes;
  VecAvx2 total[2] = {VecAvx2::zero(), VecAvx2::zero()};
  for (int64_t b = 0; b < w.blocks; ++b) {
    const int64_t place = row * x.scale_stride + b;
    const float scale_x = x.scales[place];
    __m256i dot[2];
    dot[0] = dot[1] = _mm256_set1_epi32(x.centers != nullptr ? x.centers[place] : 0);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      for (int half = 0; half < 2; ++half) {
        __m256i words[4];
        widen<kLayout>(codes + 64 * j + 32 * half, codebook, words);
        for (int i = 0; i < (kLayout == Layout::kBytes ? 2 : 4); ++i) {
          const int group = j + i / 2 * kVectors;
          const __m256i value = broadcast4(values + 8 * group + 4 * (i % 2));
          dot[half] = _mm256_add_epi32(dot[half], _mm256_madd_epi16(words[i], value));
        }
      }
    }
    for (int half = 0; half < 2; ++half) {
      const int64_t slot = scale_slot(w, strip, b, 8 * half);
      const __m256 scale_w = load_halves(w.scales + slot);
      const __m256 scale = _mm256_mul_ps(scale_w, _mm256_set1_ps(scale_x));
      __m256& sum = total[half].v;
      sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[half]), scale, sum);
      if (w.offsets == nullptr) continue;
      sum = _mm256_fmadd_ps(load_halves(w.offsets + slot), _mm256_set1_ps(x.sums[place]), sum);
    }
    codes += 64 * kVectors;
    values += 8 * kGroups;
  }
  scale_rows(w, strip, total);
  store_strip<VecAvx2, 2>(total, y + strip * kStripRows, w.n - strip * kStripRows);
}

// One strip as kWords, less the center, with float32 scales and, where there are any, offsets,
// [blocks][16] each.
struct Panel {
  const uint8_t* words;
  const float* scales;
  const float* offsets;
};

template <Layout kLayout, int kGroups>
Panel make_panel(const MatrixView& w, int64_t strip, uint8_t* scratch) {
  constexpr int kVectors = kLayout == Layout::kBytes ? kGroups : kGroups / 2;
  const Codebook codebook = has_codebook(kLayout) ? load_codebook(w) : Codebook{};
  const bool has_center = kLayout != Layout::kCodebook && w.offsets == nullptr;
  const __m256i center = _mm256_set1_epi16(static_cast<int16_t>(has_center ? w.center : 0.0f));
  const uint8_t* source = w.codes + strip * w.strip_bytes;
  uint8_t* out = scratch;
  for (int64_t b = 0; b < w.blocks; ++b) {
    for (int j = 0; j < kVectors; ++j) {
      for (int half = 0; half < 2; ++half) {
        __m256i words[4];
        widen<kLayout>(source + 64 * j + 32 * half, codebook, words);
        for (int i = 0; i < (kLayout == Layout::kBytes ? 2 : 4); ++i) {
          const int group = j + i / 2 * kVectors;
          store_codes(out + 128 * group + 64 * (i % 2) + 32 * half,
                      _mm256_sub_epi16(words[i], center));
        }
      }
    }
    source += 64 * kVectors;
    out += 128 * kGroups;
  }
  const int64_t count = w.blocks * kStripRows;
  float* scales = reinterpret_cast<float*>(out);
  float* offsets = scales + count;
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t slot = scale_slot(w, strip, i / kStripRows, i % kStripRows);
    _mm256_store_ps(scales + i, load_halves(w.scales + slot));
    if (w.offsets != nullptr) _mm256_store_ps(offsets + i, load_halves(w.offsets + slot));
  }
  return {scratch, scales, offsets};
}

// kRows rows by one strip. Every output sees the operations of integer_gemv in the same order.
template <int kGroups, int kRows, bool kOffsets>
void words_micro(const MatrixView& w, const Panel& panel, const ActivationView& x, int64_t row,
                 int64_t strip, float* y, int64_t ldy) {
  VecAvx2 total[kRows][2];
  for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = VecAvx2::zero();
  const uint8_t* words = panel.words;
  const uint8_t* values = x.codes + row * x.row_bytes;
  for (int64_t b = 0; b < w.blocks; ++b) {
    __m256i dot[kRows][2];
    for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int pair = 0; pair < 2 * kGroups; ++pair) {
      const __m256i first = load_codes(words + 64 * pair);
      const __m256i second = load_codes(words + 64 * pair + 32);
      for (int r = 0; r < kRows; ++r) {
        const __m256i value = broadcast4(values + r * x.row_bytes + 4 * pair);
        dot[r][0] = _mm256_add_epi32(dot[r][0], _mm256_madd_epi16(first, value));
        dot[r][1] = _mm256_add_epi32(dot[r][1], _mm256_madd_epi16(second, value));
        // Keeps GCC from loading all rows' values first, which would push sums out of registers.
        asm("" : "+x"(dot[r][0]), "+x"(dot[r][1]));
      }
    }
    for (int half = 0; half < 2; ++half) {
      const __m256 scale_w = _mm256_load_ps(panel.scales + b * kStripRows + 8 * half);
      for (int r = 0; r < kRows; ++r) {
        const int64_t at = (row + r) * x.scale_stride + b;
        const __m256 scale = _mm256_mul_ps(scale_w, _mm256_set1_ps(x.scales[at]));
        __m256& sum = total[r][half].v;
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r][half]), scale, sum);
        if (kOffsets) {
          const __m256 offset_w = _mm256_load_ps(panel.offsets + b * kStripRows + 8 * half);
          sum = _mm256_fmadd_ps(offset_w, _mm256_set1_ps(x.sums[at]), sum);
        }
      }
    }
    words += 128 * kGroups;
    values += 8 * kGroups;
  }
  for (int r = 0; r < kRows; ++r) {
    scale_rows(w, strip, total[r]);
    store_strip<VecAvx2, 2>(total[r], y + (row + r) * ldy + strip * kStripRows,
                            w.n - strip * kStripRows);
  }
}

template <int kGroups, bool kOffsets>
void words_rows(const MatrixView& w, const Panel& panel, const ActivationView& x,
                const TileRange& range, int64_t strip, float* y, int64_t ldy) {
  int64_t row = range.row_begin;
  for (; row + kRowsAtOnce <= range.row_end; row += kRowsAtOnce) {
    words_micro<kGroups, kRowsAtOnce, kOffsets>(w, panel, x, row, strip, y, ldy);
  }
  switch (range.row_end - row) {
    case 5:
      return words_micro<kGroups, 5, kOffsets>(w, panel, x, row, strip, y, ldy);
    case 4:
      return words_micro<kGroups, 4, kOffsets>(w, panel, x, row, strip, y, ldy);
    case 3:
      return words_micro<kGroups, 3, kOffsets>(w, panel, x, row, strip, y, ldy);
    case 2:
      return words_micro<kGroups, 2, kOffsets>(w, panel, x, row, strip, y, ldy);
    case 1:
      return words_micro<kGroups, 1, kOffsets>(w, panel, x, row, strip, y, ldy);
    default:
      return;
  }
}

template <Layout kLayout, int kGroups>
void integer_tile_as(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy, uint8_t* scratch) {
  const bool one_row = range.row_end - range.row_begin == 1;
  for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
    if (one_row) {
      integer_gemv<kLayout, kGroups>(w, x, range.row_begin, strip, y + range.row_begin * ldy);
      continue;
    }
    const Panel panel = make_panel<kLayout, kGroups>(w, strip, scratch);
    if (w.offsets != nullptr) {
      words_rows<kGroups, true>(w, panel, x, range, strip, y, ldy);
    } else {
      words_rows<kGroups, false>(w, panel, x, range, strip, y, ldy);
    }
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

inline __m256 scale_column(const MatrixView& w, int64_t strip, int half, __m256 values) {
  if (w.row_scales == nullptr) return values;
  return _mm256_mul_ps(values, _mm256_loadu_ps(w.row_scales + strip * kStripRows + 8 * half));
}

// The element `i` of block `b` of a codebook layout in rows 8 half .. + 7 of a strip.
inline __m256 decode_codebook_column(const MatrixView& w, int64_t strip, int half, int64_t b,
                                     int64_t i) {
  constexpr int kByteOf[4] = {0, 2, 1, 3};
  const bool in_order = w.layout == Layout::kByteCodebook;
  const int64_t low_count = w.block / 2;
  const uint8_t* codes = w.codes + strip * w.strip_bytes + b * 8 * w.block + 32 * half;
  const __m256i four = load_codes(codes + 64 * (i % low_count / 4));
  const int byte = static_cast<int>(in_order ? i % 4 : kByteOf[i % 4]);
  const int shift = 8 * byte + (i >= low_count ? 4 : 0);
  const __m256i code =
      _mm256_and_si256(_mm256_srl_epi32(four, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(15));
  const __m256i first = _mm256_cvtepi16_epi32(load_words(w.codebook));
  const __m256i second = _mm256_cvtepi16_epi32(load_words(w.codebook + 8));
  const __m256i is_second = _mm256_cmpgt_epi32(code, _mm256_set1_epi32(7));
  const __m256i level = _mm256_blendv_epi8(_mm256_permutevar8x32_epi32(first, code),
                                           _mm256_permutevar8x32_epi32(second, code), is_second);
  const __m256i center = _mm256_set1_epi32(in_order ? static_cast<int>(w.center) : 0);
  const __m256i value = _mm256_sub_epi32(level, center);
  const __m256 scale = load_halves(w.scales + scale_slot(w, strip, b, 8 * half));
  return scale_column(w, strip, half, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(value)));
}

// Column k of W: its element in rows 8 half .. + 7 of a strip.
inline __m256 decode_column(const MatrixView& w, int64_t strip, int half, int64_t k) {
  const uint8_t* codes = w.codes + strip * w.strip_bytes + 32 * half;
  if (w.layout == Layout::kF32) return _mm256_castsi256_ps(load_codes(codes + 64 * k));
  if (w.layout == Layout::kBF16) {
    const __m256i pair = load_codes(codes + 64 * (k / 2));
    return _mm256_castsi256_ps(k % 2 == 0 ? _mm256_slli_epi32(pair, 16)
                                          : _mm256_and_si256(pair, _mm256_set1_epi32(-65536)));
  }
  const int64_t b = k / w.block;
  const int64_t i = k % w.block;
  if (has_codebook(w.layout)) return decode_codebook_column(w, strip, half, b, i);
  const bool nibbles = w.layout == Layout::kNibbles;
  const __m256i four = nibbles ? load_codes(codes + b * 256 + 64 * (i % 16 / 4))
                               : load_codes(codes + b * 16 * w.block + 64 * (i / 4));
  const int shift = static_cast<int>(8 * (i % 4)) + (nibbles && i >= 16 ? 4 : 0);
  const __m256i code = _mm256_and_si256(_mm256_srl_epi32(four, _mm_cvtsi32_si128(shift)),
                                        _mm256_set1_epi32(nibbles ? 15 : 255));
  const int64_t slot = (strip * w.blocks + b) * kStripRows + 8 * half;
  const __m256 scale = load_halves(w.scales + slot);
  const __m256 offset = w.offsets != nullptr ? load_halves(w.offsets + slot)
                                             : _mm256_mul_ps(scale, _mm256_set1_ps(-w.center));
  const __m256 value = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(code), offset);
  return scale_column(w, strip, half, value);
}

// Rows 8 half .. + 7 of a strip and columns k .. k + 7 of W, as out[row][column]; what lies past
// the matrix is 0.
void decode_transposed(const MatrixView& w, int64_t strip, int half, int64_t k, float* out) {
  VecAvx2 columns[8];
  for (int64_t i = 0; i < 8; ++i) {
    const bool exists = strip < w.strips && k + i < w.k;
    columns[i].v = exists ? decode_column(w, strip, half, k + i) : _mm256_setzero_ps();
  }
  transpose_block(columns, out, 8);
}

}  // namespace

void quantize_row(const float* x, int64_t k, int64_t block, int terms, uint8_t* codes,
                  float* scales, int32_t* sums) {
  const auto most = static_cast<float>(activation_max(terms));
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
    float inverse = usable && amax > 0.0f ? most / amax : 0.0f;
    if (!(inverse <= 3.402823466e+38f)) inverse = 0.0f;
    scales[b] = usable ? amax / most : __builtin_nanf("");
    __m256i total = _mm256_setzero_si256();
    for (int64_t i = 0; i < block; i += 8) {
      uint8_t* out = codes + 2 * (b * block + i);
      if (inverse > 0.0f) {
        quantize_eight(values + i, _mm256_set1_ps(inverse), out, &total);
      } else {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_setzero_si128());
      }
    }
    sums[b] = sum_lanes(total);
  }
}

void quantize_words(const float* x, int64_t k, int64_t block, uint8_t* codes, float* scales,
                    int32_t* sums) {
  quantize_row(x, k, block, 2, codes, scales, sums);
}

void bfloat16_row(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; ++i) out[i] = to_bfloat16(x[i]);
  if (k % 2 == 1) out[k] = 0;
}

void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                  int64_t ldy, uint8_t* scratch) {
  if (w.layout == Layout::kNibbles) {
    integer_tile_as<Layout::kNibbles, 8>(w, x, range, y, ldy, scratch);
  } else if (w.layout == Layout::kByteCodebook && w.block == kByteBlock) {
    integer_tile_as<Layout::kByteCodebook, 16>(w, x, range, y, ldy, scratch);
  } else if (w.layout == Layout::kByteCodebook) {
    integer_tile_as<Layout::kByteCodebook, 8>(w, x, range, y, ldy, scratch);
  } else if (w.block == kByteBlock) {
    integer_tile_as<Layout::kBytes, 16>(w, x, range, y, ldy, scratch);
  } else if (w.block == 32) {
    integer_tile_as<Layout::kBytes, 8>(w, x, range, y, ldy, scratch);
  } else {
    integer_tile_as<Layout::kBytes, 4>(w, x, range, y, ldy, scratch);
  }
}

void codebook_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                   int64_t ldy, uint8_t* scratch) {
  integer_tile_as<Layout::kCodebook, 8>(w, x, range, y, ldy, scratch);
}

void words_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t*) {
  for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
    const float* scales = w.float_scales + strip * w.blocks * kStripRows;
    const Panel panel = {w.codes + strip * w.strip_bytes, scales, nullptr};
    words_rows<8, false>(w, panel, x, range, strip, y, ldy);
  }
}

void transpose_words(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales) {
  VecAvx2 values[2][32];  // [eight columns of W][row of W]: a row of the block each
  for (int part = 0; part < 2; ++part) {
    for (int eight = 0; eight < 4; ++eight) {
      alignas(32) float block[64];
      decode_transposed(w, strip + eight / 2, eight % 2, k + 8 * part, block);
      for (int i = 0; i < 8; ++i) values[part][8 * eight + i] = VecAvx2::load(block + 8 * i);
    }
    VecAvx2 largest = VecAvx2::zero();
    for (const VecAvx2& value : values[part]) largest = max(largest, abs(value));
    const __m256 quotient = _mm256_div_ps(_mm256_set1_ps(kWordMax), largest.v);
    const __m256 usable =  // neither 0 nor so small that the quotient overflows
        _mm256_cmp_ps(quotient, _mm256_set1_ps(3.402823466e+38f), _CMP_LE_OQ);
    const __m256 inverse = _mm256_and_ps(quotient, usable);
    _mm256_storeu_ps(scales + 8 * part, _mm256_div_ps(largest.v, _mm256_set1_ps(kWordMax)));
    const auto code = [&](int i) {
      return _mm256_cvtps_epi32(_mm256_mul_ps(values[part][i].v, inverse));
    };
    for (int group = 0; group < 8; ++group) {
      for (int odd = 0; odd < 2; ++odd) {
        const __m256i low = _mm256_and_si256(code(4 * group + odd), _mm256_set1_epi32(0xffff));
        const __m256i high = _mm256_slli_epi32(code(4 * group + odd + 2), 16);
        store_codes(codes + 128 * group + 64 * odd + 32 * part, _mm256_or_si256(low, high));
      }
    }
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
