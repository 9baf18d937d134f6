#pragma once

#include "generator/kernels/matmul.h"
#include "generator/kernels/matmul_twins.h"

// What the parts of matmul share: the kernels of the instruction set that runs, and tiles run by
// them.
namespace quarry::kernels {

// The functions of one instruction set.
struct Twins {
  decltype(&portable::quantize_row) quantize_row;
  decltype(&portable::quantize_words) quantize_words;
  decltype(&portable::bfloat16_row) bfloat16_row;
  decltype(&portable::integer_tile) integer_tile;
  decltype(&portable::codebook_tile) codebook_tile;
  decltype(&portable::bfloat16_tile) bfloat16_tile;
  decltype(&portable::float_tile) float_tile;
  decltype(&portable::transpose_tile) transpose_tile;
  decltype(&portable::words_tile) words_tile;
  decltype(&portable::transpose_words) transpose_words;
  decltype(&portable::transpose_bytes) transpose_bytes;
  decltype(&portable::round_bytes) round_bytes;
  int64_t one_term_bytes;  // of an activation of one term
  bool adds_bias;          // in integer_tile and bfloat16_tile
};

// Those of cpu_isa(), and the plain ones.
const Twins& twins();
const Twins& portable_twins();

// Bytes of weights that a thread should have to read before a second one is worth waking.
constexpr int64_t kGrainBytes = 24 * 1024;
constexpr int64_t kGrainMultiplies = 256 * 1024;

inline bool is_dense(Layout layout) { return layout == Layout::kF32 || layout == Layout::kBF16; }

// Whether products of bytes are what these activations are for, and the faster ones.
bool multiplies_bytes(ActivationBits bits);

// y of one tile.
void run_tile(const Twins& twins, const MatrixView& w, const ActivationView& x,
              const TileRange& range, float* y, int64_t ldy);
// Adds the bias, which may be null, to the columns of a tile.
void add_tile_bias(const float* bias, int64_t n, const TileRange& range, float* y, int64_t ldy);
// Leaves x rounded where it is wanted.
void copy_rounded(const float* x, int64_t m, int64_t width, int64_t ldx, const RoundedCopy& copy);

}  // namespace quarry::kernels
