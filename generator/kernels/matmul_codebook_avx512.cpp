#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/matmul_twins.h"
#include "generator/kernels/strips_avx512.h"

// kCodebook by VNNI's 16-bit products: each nibble is looked up as a 16-bit integer (one vpermw for
// 32 of them, which ignores all but the low bits of an index when the codebook is there twice) and
// pairs of k meet a broadcast pair of activations, 16-bit integers in order. As many
// multiplications as kNibbles needs for activations of two bytes.
namespace quarry::kernels::avx512 {
namespace {

constexpr int kRowsAtOnce = 6;
constexpr int kVectors = 4;        // of a block in a strip
constexpr int kPairs = 16;         // of k in a block
constexpr int kPanelBytes = 1024;  // of a block as 16-bit integers

inline __m512i load_codebook(const MatrixView& w) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.codebook)));
}
inline void store_strip(const MatrixView& w, int64_t strip, __m512 total, float* y) {
  _mm512_mask_storeu_ps(y + strip * kStripRows, column_mask(w.n - strip * kStripRows),
                        scale_rows(w, strip, total));
}

// Vector j of a block: words[0] and [1] hold k 4j, 4j + 1 and 4j + 2, 4j + 3 of 16 rows, [2] and
// [3] the same of k 16 + 4j.
inline void widen(__m512i codebook, __m512i codes, __m512i* words) {
  words[0] = _mm512_permutexvar_epi16(codes, codebook);
  words[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), codebook);
  words[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), codebook);
  words[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), codebook);
}

// Place among a block's 16 pairs of k of words[i] of vector j.
constexpr int pair_of(int j, int i) { return 2 * j + i % 2 + i / 2 * (kPairs / 2); }

// One row of x by kStrips strips, straight from the packed codes.
template <int kStrips>
void codebook_gemv(const MatrixView& w, const ActivationView& x, int64_t row, int64_t strip,
                   float* y) {
  const __m512i codebook = load_codebook(w);
  const uint8_t* values = x.codes + row * x.row_bytes;
  const float* scales = x.scales + row * x.scale_stride;
  __m512 total[kStrips];
  for (int s = 0; s < kStrips; ++s) total[s] = _mm512_setzero_ps();
  for (int64_t b = 0; b < w.blocks; ++b) {
    for (int s = 0; s < kStrips; ++s) {
      const uint8_t* codes = w.codes + (strip + s) * w.strip_bytes + b * 64 * kVectors;
      __m512i dot[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
      for (int j = 0; j < kVectors; ++j) {
        __m512i words[4];
        widen(codebook, load_codes(codes + 64 * j), words);
        for (int i = 0; i < 4; ++i) {
          const __m512i value = broadcast4(values + 4 * pair_of(j, i));
          dot[i % 2] = _mm512_dpwssd_epi32(dot[i % 2], words[i], value);
        }
      }
      const __m512 scale_w = load_halves(w.scales + scale_slot(w, strip + s, b, 0));
      const __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(scales[b]));
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(dot[0], dot[1]));
      total[s] = _mm512_fmadd_ps(sum, scale, total[s]);
    }
    values += 4 * kPairs;
  }
  for (int s = 0; s < kStrips; ++s) store_strip(w, strip + s, total[s], y);
}

// Up to two strips as 16-bit integers, kPanelBytes a block, with float32 scales [blocks][16].
struct Panel {
  const uint8_t* words[2];
  const float* scales[2];
};

Panel make_panel(const MatrixView& w, int64_t strip, int count, uint8_t* scratch) {
  const __m512i codebook = load_codebook(w);
  Panel panel = {};
  for (int s = 0; s < count; ++s) {
    const uint8_t* source = w.codes + (strip + s) * w.strip_bytes;
    uint8_t* out = scratch + s * w.blocks * (kPanelBytes + kStripRows * 4);
    float* scales = reinterpret_cast<float*>(out + w.blocks * kPanelBytes);
    panel.words[s] = out;
    panel.scales[s] = scales;
    for (int64_t b = 0; b < w.blocks; ++b) {
      for (int j = 0; j < kVectors; ++j) {
        __m512i words[4];
        widen(codebook, load_codes(source + (b * kVectors + j) * 64), words);
        for (int i = 0; i < 4; ++i) {
          _mm512_store_si512(out + b * kPanelBytes + 64 * pair_of(j, i), words[i]);
        }
      }
      const __m512 scale = load_halves(w.scales + scale_slot(w, strip + s, b, 0));
      _mm512_store_ps(scales + b * kStripRows, scale);
    }
  }
  return panel;
}

// kRows rows of x by kStrips strips. Every output sees the operations of codebook_gemv in the same
// order.
template <int kRows, int kStrips>
void codebook_micro(const MatrixView& w, const Panel& panel, const ActivationView& x, int64_t row,
                    int64_t strip, float* y, int64_t ldy) {
  const uint8_t* values = x.codes + row * x.row_bytes;
  const float* scales = x.scales + row * x.scale_stride;
  __m512 total[kRows][kStrips];
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kStrips; ++s) total[r][s] = _mm512_setzero_ps();
  }
  for (int64_t b = 0; b < w.blocks; ++b) {
    __m512i dot[kRows][kStrips];
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kStrips; ++s) dot[r][s] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int pair = 0; pair < kPairs; ++pair) {
      __m512i words[kStrips];
      for (int s = 0; s < kStrips; ++s) {
        words[s] = load_codes(panel.words[s] + b * kPanelBytes + 64 * pair);
      }
      for (int r = 0; r < kRows; ++r) {
        const __m512i value = broadcast4(values + r * x.row_bytes + 4 * pair);
        for (int s = 0; s < kStrips; ++s) {
          dot[r][s] = _mm512_dpwssd_epi32(dot[r][s], words[s], value);
        }
      }
    }
    for (int s = 0; s < kStrips; ++s) {
      const __m512 scale_w = _mm512_load_ps(panel.scales[s] + b * kStripRows);
      for (int r = 0; r < kRows; ++r) {
        const __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(scales[r * x.scale_stride + b]));
        total[r][s] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][s]), scale, total[r][s]);
      }
    }
    values += 4 * kPairs;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kStrips; ++s) {
      store_strip(w, strip + s, total[r][s], y + (row + r) * ldy);
    }
  }
}

template <int kStrips>
void codebook_rows(const MatrixView& w, const ActivationView& x, const TileRange& range,
                   int64_t strip, float* y, int64_t ldy, uint8_t* scratch) {
  int64_t row = range.row_begin;
  if (range.row_end - row == 1) return codebook_gemv<kStrips>(w, x, row, strip, y + row * ldy);
  const Panel panel = make_panel(w, strip, kStrips, scratch);
  for (; row + kRowsAtOnce <= range.row_end; row += kRowsAtOnce) {
    codebook_micro<kRowsAtOnce, kStrips>(w, panel, x, row, strip, y, ldy);
  }
  switch (range.row_end - row) {
    case 5:
      return codebook_micro<5, kStrips>(w, panel, x, row, strip, y, ldy);
    case 4:
      return codebook_micro<4, kStrips>(w, panel, x, row, strip, y, ldy);
    case 3:
      return codebook_micro<3, kStrips>(w, panel, x, row, strip, y, ldy);
    case 2:
      return codebook_micro<2, kStrips>(w, panel, x, row, strip, y, ldy);
    case 1:
      return codebook_micro<1, kStrips>(w, panel, x, row, strip, y, ldy);
    default:
      return;
  }
}

}  // namespace

void codebook_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                   int64_t ldy, uint8_t* scratch) {
  int64_t strip = range.strip_begin;
  for (; strip + 2 <= range.strip_end; strip += 2) {
    codebook_rows<2>(w, x, range, strip, y, ldy, scratch);
  }
  if (strip < range.strip_end) codebook_rows<1>(w, x, range, strip, y, ldy, scratch);
}

}  // namespace quarry::kernels::avx512
