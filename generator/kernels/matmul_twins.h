#pragma once

#include <stdint.h>

// What pack.cpp writes, and the versions of the kernels that matmul.cpp chooses from.
//
// Layout, the same for every instruction set. A strip is 16 consecutive output rows (the last one
// is padded with zero weights). Inside a strip the rows are interleaved so that one 64-byte vector
// holds the same few k of all 16 rows, and a product needs no horizontal sum:
//   kNibbles  block of 32 k = 4 vectors of 16 rows x 4 bytes. Vector j: the low nibbles hold
//             k 4j .. 4j+3, the high nibbles k 16+4j .. 16+4j+3 (unsigned 0 .. 15).
//   kBytes    block of 32 (Q6_K: 16) k = 8 (4) vectors of 16 rows x 4 bytes, unsigned.
//   kBF16     vectors of 16 rows x 2 k, odd k padded with 0.
//   kF32      vectors of 16 rows x 1 k.
//   kWords    block of 32 k = 16 vectors of 16 rows x 2 signed 16-bit integers of at most 12 bits;
//   a
//             group of four k is the vector of k 0 and 2, then that of k 1 and 3. Made on the way,
//             never stored: a panel of W^T where 16-bit products are the fastest there are (AVX2).
// kWords carries per (block, row) a float32 scale:  w = scale * u.  kNibbles and kBytes carry per
// (block, row) an IEEE half scale, and an offset or one constant center:  w = scale * u + offset or
// w = scale * (u - center).
//
// Activations of the integer layouts are quantized per row and block to 16-bit integers,
// x ~ scale * X with |X| <= 127 * 256 (kActivationTerms == 2) or 127 (1). AVX-512 VNNI multiplies
// bytes, so there X is split as 256 * high + low, both signed bytes; the integer sums are exact
// and thus equal on every instruction set. Per block, in this order on every path:
//   y += float(sum u X) * (scale_w * scale_x);   y += offset_w * (scale_x * sum X)
namespace quarry::kernels {

// Signed bytes per activation. 1: half the work of a prefill and the error of plain int8
// activations; 2: an error as small as the weights' own fp16 scales leave.
#ifndef QUARRY_ACTIVATION_TERMS
#define QUARRY_ACTIVATION_TERMS 2
#endif
constexpr int kActivationTerms = QUARRY_ACTIVATION_TERMS;
constexpr int kActivationMax = kActivationTerms == 2 ? 127 * 256 : 127;

constexpr int kStripRows = 16;

enum class Layout { kNibbles, kBytes, kBF16, kF32, kWords };

// Largest code of kWords: 32 products with an activation of kActivationMax stay below 2^31.
constexpr int kWordMax = 2047;

// Borrowed view of a packed matrix.
struct MatrixView {
  Layout layout;
  int64_t n;
  int64_t k;
  int64_t strips;        // ceil(n / 16)
  const uint8_t* codes;  // strip s at codes + s * strip_bytes, 64-byte aligned
  int64_t strip_bytes;
  // Integer layouts only:
  int64_t blocks;           // of one row
  int64_t block;            // k per block, 32 or 16
  const uint16_t* scales;   // [strips][blocks][16]
  const uint16_t* offsets;  // the same, or null: center is used
  float center;
  const float* word_scales;  // kWords only: [strips][blocks][16]
};

// Borrowed view of the rows of x in the form that a layout multiplies.
//   kNibbles, kBytes, kWords: quantize_row's codes;  kBF16: bfloat16;  kF32: x itself
struct ActivationView {
  const uint8_t* codes;  // row r at codes + r * row_bytes
  int64_t row_bytes;
  const float* scales;   // row r at scales + r * scale_stride, a value for each block
  const float* sums;     // the same: scale * sum of X
  int64_t scale_stride;  // blocks of a whole row
};

struct TileRange {
  int64_t row_begin;
  int64_t row_end;
  int64_t strip_begin;
  int64_t strip_end;
};

// Bytes of scratch that a tile function may use: the strips it works on, unpacked.
inline int64_t tile_scratch_bytes(const MatrixView& w) {
  return w.layout == Layout::kNibbles || w.layout == Layout::kBytes
             ? 2 * (w.k * kStripRows + w.blocks * kStripRows * 8)
             : 0;
}

// quantize_row   x[k] -> codes (2 bytes per element), scales and sums of k / block blocks. A block
//                with an infinity or NaN gets the scale NaN.
// bfloat16_row   x[k] -> bfloat16, rounded to nearest even, padded with 0 to an even count
// *_tile         y[r * ldy + n] for the rows and strips of `range`; only columns < w.n are written
// words_tile     *_tile for kWords, which AVX-512 has no use for
// transpose_tile rows 16 strip .. + 15 and columns k .. k + 15 of W, decoded and turned into a
// piece
//                of a strip of W^T: `out` is 16 vectors of float32 (layout kF32) or 8 of bfloat16
//                pairs (kBF16); what lies past the matrix is 0. There is no AVX2 version: a tile is
//                decoded once for all rows of a product.
// transpose_words  rows 16 strip .. + 31 and columns k .. k + 15 of W as one block of a strip of
// W^T
//                in kWords: 1,024 bytes of codes and 16 scales; what lies past the matrix is 0
#define QUARRY_DECLARE_MATMUL                                                                     \
  void quantize_row(const float* x, int64_t k, int64_t block, uint8_t* codes, float* scales,      \
                    float* sums);                                                                 \
  void bfloat16_row(const float* x, int64_t k, uint16_t* out);                                    \
  void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range,         \
                    float* y, int64_t ldy, uint8_t* scratch);                                     \
  void bfloat16_tile(const MatrixView& w, const ActivationView& x, const TileRange& range,        \
                     float* y, int64_t ldy, uint8_t* scratch);                                    \
  void float_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y, \
                  int64_t ldy, uint8_t* scratch);

namespace portable {
QUARRY_DECLARE_MATMUL
void transpose_tile(const MatrixView& w, int64_t strip, int64_t k, Layout layout, uint8_t* out);
void words_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t* scratch);
void transpose_words(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales);
}  // namespace portable
namespace avx2 {
QUARRY_DECLARE_MATMUL
void words_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t* scratch);
void transpose_words(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales);
}  // namespace avx2
namespace avx512 {
QUARRY_DECLARE_MATMUL
void transpose_tile(const MatrixView& w, int64_t strip, int64_t k, Layout layout, uint8_t* out);
}  // namespace avx512
#undef QUARRY_DECLARE_MATMUL

}  // namespace quarry::kernels
