#include "generator/kernels/matmul_dispatch.h"

#include <algorithm>

#include "data/core/cpu_isa.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/isa_choice.h"

namespace quarry::kernels {
namespace {

constexpr Twins kPortableTwins = {portable::quantize_row,
                                  portable::quantize_words,
                                  portable::bfloat16_row,
                                  portable::integer_tile,
                                  portable::codebook_tile,
                                  portable::bfloat16_tile,
                                  portable::float_tile,
                                  portable::transpose_tile,
                                  portable::words_tile,
                                  portable::transpose_words,
                                  portable::transpose_bytes,
                                  portable::round_bytes,
                                  2,
                                  false};
constexpr Twins kAvx2Twins = {avx2::quantize_row,
                              avx2::quantize_words,
                              avx2::bfloat16_row,
                              avx2::integer_tile,
                              avx2::codebook_tile,
                              avx2::bfloat16_tile,
                              avx2::float_tile,
                              portable::transpose_tile,
                              avx2::words_tile,
                              avx2::transpose_words,
                              portable::transpose_bytes,
                              portable::round_bytes,
                              2,
                              false};
constexpr Twins kAvx512Twins = {avx512::quantize_row,
                                avx512::quantize_words,
                                avx512::bfloat16_row,
                                avx512::integer_tile,
                                avx512::codebook_tile,
                                avx512::bfloat16_tile,
                                avx512::float_tile,
                                avx512::transpose_tile,
                                portable::words_tile,
                                portable::transpose_words,
                                avx512::transpose_bytes,
                                avx512::round_bytes,
                                1,
                                true};

}  // namespace

const Twins& portable_twins() { return kPortableTwins; }

const Twins& twins() { return *choose(&kPortableTwins, &kAvx2Twins, &kAvx512Twins); }

bool multiplies_bytes(ActivationBits bits) {
  return bits == ActivationBits::k8 && cpu_isa() == CpuIsa::kAvx512;
}

void run_tile(const Twins& twins, const MatrixView& w, const ActivationView& x,
              const TileRange& range, float* y, int64_t ldy) {
  thread_local AlignedBuffer scratch;
  uint8_t* bytes = scratch.reserve(tile_scratch_bytes(w));
  if (w.layout == Layout::kF32) {
    twins.float_tile(w, x, range, y, ldy, bytes);
  } else if (w.layout == Layout::kBF16) {
    twins.bfloat16_tile(w, x, range, y, ldy, bytes);
  } else if (w.layout == Layout::kWords) {
    twins.words_tile(w, x, range, y, ldy, bytes);
  } else if (w.layout == Layout::kCodebook) {
    twins.codebook_tile(w, x, range, y, ldy, bytes);
  } else {
    twins.integer_tile(w, x, range, y, ldy, bytes);
  }
}

void add_tile_bias(const float* bias, int64_t n, const TileRange& range, float* y, int64_t ldy) {
  if (bias == nullptr) return;
  const int64_t begin = range.strip_begin * kStripRows;
  const int64_t count = std::min(n, range.strip_end * kStripRows) - begin;
  for (int64_t row = range.row_begin; row < range.row_end; ++row) {
    float* out = y + row * ldy + begin;
    add(out, bias + begin, count, out);
  }
}

void copy_rounded(const float* x, int64_t m, int64_t width, int64_t ldx, const RoundedCopy& copy) {
  if (copy.rows == nullptr) return;
  parallel_for(m, std::max<int64_t>(1, 32768 / width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float_to_bfloat16(x + row * ldx, width, copy.rows + row * copy.stride);
    }
  });
}

}  // namespace quarry::kernels
