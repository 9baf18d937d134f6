#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/matmul_twins.h"
#include "generator/kernels/strips_avx512.h"
#include "generator/kernels/vec_avx512.h"

// Panels made on the way: columns of the packed W decoded, for W as they are, for W^T turned into
// rows.
namespace quarry::kernels::avx512 {
namespace {

// Element `i` of block `b` of a codebook layout in each of the strip's 16 rows.
inline __m512 decode_codebook_column(const MatrixView& w, int64_t strip, int64_t b, int64_t i) {
  constexpr int kByteOf[4] = {0, 2, 1, 3};
  const bool in_order = w.layout == Layout::kByteCodebook;
  const int64_t half = w.block / 2;
  const uint8_t* codes = w.codes + strip * w.strip_bytes + b * 8 * w.block;
  const int byte = static_cast<int>(in_order ? i % 4 : kByteOf[i % 4]);
  const int shift = 8 * byte + (i >= half ? 4 : 0);
  // Only the low four bits of an index count.
  const __m512i code =
      _mm512_srl_epi32(load_codes(codes + 64 * (i % half / 4)), _mm_cvtsi32_si128(shift));
  const __m512i codebook =
      _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.codebook)));
  const __m512i center = _mm512_set1_epi32(in_order ? static_cast<int>(w.center) : 0);
  const __m512 value =
      _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_permutexvar_epi32(code, codebook), center));
  const __m512 scale = load_halves(w.scales + scale_slot(w, strip, b, 0));
  return scale_rows(w, strip, _mm512_mul_ps(scale, value));
}

// Column k of W: its element in each of the strip's 16 rows.
inline __m512 decode_column(const MatrixView& w, int64_t strip, int64_t k) {
  const uint8_t* codes = w.codes + strip * w.strip_bytes;
  if (w.layout == Layout::kF32) return _mm512_load_ps(codes + 64 * k);
  if (w.layout == Layout::kBF16) {
    const __m512i pair = load_codes(codes + 64 * (k / 2));
    return _mm512_castsi512_ps(k % 2 == 0 ? _mm512_slli_epi32(pair, 16)
                                          : _mm512_and_si512(pair, _mm512_set1_epi32(-65536)));
  }
  const int64_t b = k / w.block;
  const int64_t i = k % w.block;
  __m512i code;
  if (w.layout == Layout::kCodebook || w.layout == Layout::kByteCodebook) {
    return decode_codebook_column(w, strip, b, i);
  }
  if (w.layout == Layout::kNibbles) {
    const __m512i four = load_codes(codes + b * 256 + 64 * ((i % 16) / 4));
    const __m512i byte =
        _mm512_srl_epi32(four, _mm_cvtsi32_si128(static_cast<int>(8 * (i % 4) + (i < 16 ? 0 : 4))));
    code = _mm512_and_si512(byte, _mm512_set1_epi32(15));
  } else {
    const __m512i four = load_codes(codes + b * 16 * w.block + 64 * (i / 4));
    code =
        _mm512_and_si512(_mm512_srl_epi32(four, _mm_cvtsi32_si128(static_cast<int>(8 * (i % 4)))),
                         _mm512_set1_epi32(255));
  }
  const int64_t slot = (strip * w.blocks + b) * kStripRows;
  const __m512 scale = load_halves(w.scales + slot);
  const __m512 value = _mm512_cvtepi32_ps(code);
  if (w.offsets == nullptr) {
    const __m512 centered = _mm512_sub_ps(value, _mm512_set1_ps(w.center));
    return scale_rows(w, strip, _mm512_mul_ps(scale, centered));
  }
  // Two roundings, as everywhere a weight is decoded.
  return _mm512_add_round_ps(
      _mm512_mul_round_ps(scale, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
      load_halves(w.offsets + slot), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Columns k .. k + 15 of W in the strip's 16 rows, k a multiple of 16; past the matrix all is 0.
// kDownStrips: the strips below come next, too far apart for the CPU to see a pattern.
template <bool kDownStrips>
inline void decode_columns(const MatrixView& w, int64_t strip, int64_t k, VecAvx512* columns) {
  const bool is_integer = w.layout == Layout::kNibbles || w.layout == Layout::kBytes;
  if (strip >= w.strips || !is_integer || k + kStripRows > w.k) {
    for (int64_t i = 0; i < kStripRows; ++i) {
      const bool exists = strip < w.strips && k + i < w.k;
      columns[i].v = exists ? decode_column(w, strip, k + i) : _mm512_setzero_ps();
    }
    return;
  }
  // As decode_column; sixteen columns lie in one block and share its scale.
  const bool nibbles = w.layout == Layout::kNibbles;
  const int64_t b = k / w.block;
  const int64_t at = k % w.block;
  const uint8_t* codes = w.codes + strip * w.strip_bytes + b * (nibbles ? 256 : 16 * w.block) +
                         (nibbles ? 0 : 16 * at);
  const __m128i shift = _mm_cvtsi32_si128(nibbles && at >= kStripRows ? 4 : 0);
  const __m512i mask = _mm512_set1_epi32(nibbles ? 15 : 255);
  const int64_t slot = (strip * w.blocks + b) * kStripRows;
  const __m512 scale = load_halves(w.scales + slot);
  const __m512 offset = w.offsets != nullptr ? load_halves(w.offsets + slot) : _mm512_setzero_ps();
  const __m512 center = _mm512_set1_ps(w.offsets != nullptr ? 0.0f : w.center);
  if (kDownStrips) {
    constexpr int64_t kAhead = kByteBlock / kStripRows;
    const auto fetch = [](const void* p) {
      _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
    };
    for (int j = 0; j < 4; ++j) fetch(codes + kAhead * w.strip_bytes + 64 * j);
    fetch(w.scales + slot + kAhead * w.blocks * kStripRows);
    if (w.offsets != nullptr) fetch(w.offsets + slot + kAhead * w.blocks * kStripRows);
  }
  for (int j = 0; j < 4; ++j) {
    __m512i four = _mm512_srl_epi32(load_codes(codes + 64 * j), shift);
    for (int i = 0; i < 4; ++i) {
      const __m512 code = _mm512_cvtepi32_ps(_mm512_and_si512(four, mask));
      const __m512 product = _mm512_mul_round_ps(scale, _mm512_sub_ps(code, center),
                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m512 value =
          _mm512_add_round_ps(product, offset, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      columns[4 * j + i].v = w.offsets == nullptr ? scale_rows(w, strip, value) : value;
      four = _mm512_srli_epi32(four, 8);
    }
  }
}

// A block of kBytes of 64 elements in each of 16 lanes.
void store_bytes(const float* elements, uint8_t* codes, float* scales) {
  __m512 largest = _mm512_setzero_ps();
  for (int i = 0; i < kByteBlock; ++i) {
    largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_load_ps(elements + i * kStripRows)));
  }
  const __m512 most = _mm512_set1_ps(static_cast<float>(kByteMax));
  _mm512_storeu_ps(scales, _mm512_div_ps(largest, most));
  // A quotient that is no number or overflows counts as 0.
  __m512 inverse = _mm512_div_ps(most, largest);
  inverse = _mm512_maskz_mov_ps(
      _mm512_cmp_ps_mask(inverse, _mm512_set1_ps(3.402823466e+38f), _CMP_LE_OQ), inverse);
  for (int group = 0; group < kByteBlock / 4; ++group) {
    __m512i four = _mm512_setzero_si512();
    for (int i = 3; i >= 0; --i) {
      const __m512 value = _mm512_load_ps(elements + (4 * group + i) * kStripRows);
      const __m512i code = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(value, inverse)),
                                            _mm512_set1_epi32(kByteCenter));
      four = _mm512_or_si512(_mm512_slli_epi32(four, 8), code);
    }
    _mm512_store_si512(codes + 64 * group, four);
  }
}

}  // namespace

void transpose_tile(const MatrixView& w, int64_t strip, int64_t k, Layout layout, uint8_t* out) {
  VecAvx512 columns[kStripRows];
  decode_columns<true>(w, strip, k, columns);
  if (layout == Layout::kF32) {
    transpose_block(columns, reinterpret_cast<float*>(out), kStripRows);
    return;
  }
  alignas(64) float rows[kStripRows * kStripRows];
  transpose_block(columns, rows, kStripRows);
  alignas(64) uint16_t order[32];
  for (int i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(16 * (i % 2) + i / 2);
  const __m512i interleave = _mm512_load_si512(order);
  for (int pair = 0; pair < kStripRows / 2; ++pair) {
    const __m512 even = _mm512_load_ps(rows + 2 * pair * kStripRows);
    const __m512 odd = _mm512_load_ps(rows + (2 * pair + 1) * kStripRows);
    const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
    _mm512_store_si512(out + 64 * pair, _mm512_permutexvar_epi16(interleave, halves));
  }
}

void transpose_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales) {
  alignas(64) float rows[kByteBlock * kStripRows];  // of W, a lane for each column
  for (int part = 0; part < kByteBlock / kStripRows; ++part) {
    VecAvx512 columns[kStripRows];
    decode_columns<true>(w, strip + part, k, columns);
    transpose_block(columns, rows + part * kStripRows * kStripRows, kStripRows);
  }
  store_bytes(rows, codes, scales);
}

void round_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales) {
  alignas(64) float columns[kByteBlock * kStripRows];  // of W, a lane for each row
  for (int part = 0; part < kByteBlock / kStripRows; ++part) {
    VecAvx512 decoded[kStripRows];
    decode_columns<false>(w, strip, k + part * kStripRows, decoded);
    for (int i = 0; i < kStripRows; ++i) {
      decoded[i].store(columns + (part * kStripRows + i) * kStripRows);
    }
  }
  store_bytes(columns, codes, scales);
}

}  // namespace quarry::kernels::avx512
