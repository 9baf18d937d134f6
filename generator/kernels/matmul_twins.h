#pragma once

#include <stdint.h>

// What pack.cpp writes, and the versions of the kernels that matmul.cpp chooses from.
//
// Layout, the same for every instruction set. A strip is 16 consecutive output rows (the last one
// is padded with zero weights). Inside a strip the rows are interleaved so that one 64-byte vector
// holds the same few k of all 16 rows, and a product needs no horizontal sum:
//   kNibbles  block of 32 k = 4 vectors of 16 rows x 4 bytes. Vector j: the low nibbles hold
//             k 4j .. 4j+3, the high nibbles k 16+4j .. 16+4j+3 (unsigned 0 .. 15).
//   kCodebook block of 32 k as kNibbles, but the four bytes of a row hold k 0 2 1 3 (+ 4j); a
//             nibble stands for codebook[nibble], a signed integer of at most 12 bits (NF4, FP4).
//   kByteCodebook  block of 32 k as kNibbles, or of 64 k = 8 vectors, the high nibbles of vector j
//             k 32+4j .. 32+4j+3; a nibble stands for codebook[nibble], 1 .. 255 with 128 for 0.
//   kBytes    block of 32 (Q6_K: 16) k = 8 (4) vectors of 16 rows x 4 bytes, unsigned. Of dense
//             weights, and in a panel made on the way: blocks of 64 k, 16 vectors.
//   kBF16     vectors of 16 rows x 2 k, odd k padded with 0.
//   kF32      vectors of 16 rows x 1 k.
//   kWords    block of 32 k = 16 vectors of 16 rows x 2 signed 16-bit integers of at most 12
//             bits; a group of four k is the vector of k 0 and 2, then that of k 1 and 3. Made on
//             the way, never stored: a panel of W^T where 16-bit products are the fastest (AVX2).
// kNibbles and kBytes carry per (block, row) an IEEE half scale, and an offset or one constant
// center:  w = scale * u + offset  or  w = scale * (u - center).  kByteCodebook carries a half
// scale and a center:  w = scale * (codebook[u] - center);  kCodebook a half scale for every
// 2^scale_shift blocks of a row:  w = scale * codebook[u].  kWords carries per (block, row) a
// float32 scale: w = scale * u.  Where row_scales are given, w is multiplied by its row's: halves
// alone would not hold the small scales of wide codes.
//
// Activations of the integer layouts are quantized per row and block to 16-bit integers,
// x ~ scale * X with |X| <= activation_max(terms). AVX-512 VNNI multiplies bytes, so there X of two
// terms is split as 256 * high + low, both signed bytes; the integer sums are exact and thus equal
// on every instruction set. Per block, in this order on every path:
//   y += float(sum u X) * (scale_w * scale_x);   y += offset_w * (scale_x * sum X)
// or, with a center,  y += float(sum u X - center * sum X) * (scale_w * scale_x).
// At the end  y *= row_scale.
namespace quarry::kernels {

// Largest |X| of an activation in `terms` signed bytes. 2 terms leave an error as small as that of
// the weights' own fp16 scales; 1 is half the work and the error of plain int8 activations.
constexpr int activation_max(int terms) { return terms == 2 ? 127 * 256 : 127; }

constexpr int kStripRows = 16;

enum class Layout { kNibbles, kBytes, kBF16, kF32, kWords, kCodebook, kByteCodebook };

// Layouts whose products subtract a center or add offsets.
inline bool is_integer(Layout layout) {
  return layout == Layout::kNibbles || layout == Layout::kByteCodebook || layout == Layout::kBytes;
}

// Largest code of kWords and of a codebook: 32 products with an activation of two terms stay
// below 2^31.
constexpr int kWordMax = 2047;
// What stands for 0 in kBytes of dense weights and of panels, and the largest distance from it.
constexpr int kByteCenter = 128;
constexpr int kByteMax = 127;
// Depth that shares a scale in a panel.
constexpr int kByteBlock = 64;
constexpr int kWordBlock = 32;

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
  int64_t block;            // k per block, 16, 32 or 64
  const uint16_t* scales;   // [strips][blocks][16]
  const uint16_t* offsets;  // the same, or null: center is used
  float center;             // a whole number
  // [strips][blocks][16], instead of `scales`: kWords, and kBytes in a panel.
  const float* float_scales;
  const float* row_scales;  // kBytes and codebooks: [strips][16], or null: 1
  // Of one product, [n], added at the end, or null; read by AVX-512's integer_tile and
  // bfloat16_tile alone.
  const float* bias;
  int64_t scale_shift;   // kCodebook only: scales is [strips][blocks >> scale_shift][16]
  int16_t codebook[16];  // kCodebook and kByteCodebook only
};

// Place of the scale that block `b` of row `lane` of a strip has.
inline int64_t scale_slot(const MatrixView& w, int64_t strip, int64_t b, int64_t lane) {
  return (strip * (w.blocks >> w.scale_shift) + (b >> w.scale_shift)) * kStripRows + lane;
}

// Borrowed view of the rows of x in the form that a layout multiplies.
//   kNibbles, kByteCodebook, kBytes, kWords: quantize_row's codes;  kCodebook: quantize_words';
//   kBF16: bfloat16;  kF32: x itself
struct ActivationView {
  const uint8_t* codes;  // row r at codes + r * row_bytes
  int64_t row_bytes;
  const float* scales;     // row r at scales + r * scale_stride, a value for each block
  const float* sums;       // the same: scale * sum of X, for weights with offsets; else null
  const int32_t* centers;  // the same: -center * sum of X, for weights with a center; else null
  int64_t scale_stride;    // blocks of a whole row
  int terms;
};

struct TileRange {
  int64_t row_begin;
  int64_t row_end;
  int64_t strip_begin;
  int64_t strip_end;
};

// Bytes of scratch that a tile function may use: the strips it works on, unpacked.
inline int64_t tile_scratch_bytes(const MatrixView& w) {
  if (w.layout == Layout::kCodebook) return 2 * (w.k * kStripRows * 2 + w.blocks * kStripRows * 4);
  return w.layout == Layout::kNibbles || w.layout == Layout::kBytes ||
                 w.layout == Layout::kByteCodebook
             ? 2 * (w.k * kStripRows + w.blocks * kStripRows * 8)
             : 0;
}

// quantize_row   x[k] -> codes of `terms` (2 bytes per element; AVX-512 writes one term as 1 byte),
//                scales and sums of X of k / block blocks. A block with an infinity or NaN gets
//                the scale NaN.
// quantize_words the same, as the instruction set wants it for kCodebook; always 16-bit integers
// bfloat16_row   x[k] -> bfloat16, rounded to nearest even, padded with 0 to an even count
// *_tile         y[r * ldy + n] for the rows and strips of `range`; only columns < w.n are written
// integer_tile   for kNibbles, kByteCodebook and kBytes
// codebook_tile  for kCodebook
// words_tile     *_tile for kWords, which AVX-512 has no use for
// transpose_tile rows 16 strip .. + 15 and columns k .. k + 15 of W, decoded and turned into a
//                piece of a strip of W^T: `out` is 16 vectors of float32 (layout kF32) or 8 of
//                bfloat16 pairs (kBF16); what lies past the matrix is 0. There is no AVX2 version:
//                a tile is decoded once for all rows of a product.
// transpose_words  rows 16 strip .. + 31 and columns k .. k + 15 of W as one block of a strip of
//                W^T in kWords: 1,024 bytes of codes and 16 scales; past the matrix all is 0
// transpose_bytes  rows 16 strip .. + 63, the same in kBytes with the center kByteCenter: 1,024
//                bytes of codes
// round_bytes    rows 16 strip .. + 15 and columns k .. k + 63 of W itself as such a block
#define QUARRY_DECLARE_MATMUL                                                                     \
  void quantize_row(const float* x, int64_t k, int64_t block, int terms, uint8_t* codes,          \
                    float* scales, int32_t* sums);                                                \
  void quantize_words(const float* x, int64_t k, int64_t block, uint8_t* codes, float* scales,    \
                      int32_t* sums);                                                             \
  void bfloat16_row(const float* x, int64_t k, uint16_t* out);                                    \
  void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range,         \
                    float* y, int64_t ldy, uint8_t* scratch);                                     \
  void codebook_tile(const MatrixView& w, const ActivationView& x, const TileRange& range,        \
                     float* y, int64_t ldy, uint8_t* scratch);                                    \
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
void transpose_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales);
void round_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales);
// Row `row` of W, any layout but kWords.
void decode_row(const MatrixView& w, int64_t row, float* out);
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
void transpose_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales);
void round_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales);
}  // namespace avx512
#undef QUARRY_DECLARE_MATMUL

}  // namespace quarry::kernels
