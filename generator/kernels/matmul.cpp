#include "generator/kernels/matmul.h"

#include <algorithm>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/packed_strips.h"

namespace quarry::kernels {
namespace {

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
  int64_t one_term_bytes;  // of an activation of one term
};

constexpr Twins kPortableTwins = {
    portable::quantize_row,    portable::quantize_words,  portable::bfloat16_row,
    portable::integer_tile,    portable::codebook_tile,   portable::bfloat16_tile,
    portable::float_tile,      portable::transpose_tile,  portable::words_tile,
    portable::transpose_words, portable::transpose_bytes, 2};
constexpr Twins kAvx2Twins = {avx2::quantize_row,    avx2::quantize_words,      avx2::bfloat16_row,
                              avx2::integer_tile,    avx2::codebook_tile,       avx2::bfloat16_tile,
                              avx2::float_tile,      portable::transpose_tile,  avx2::words_tile,
                              avx2::transpose_words, portable::transpose_bytes, 2};
constexpr Twins kAvx512Twins = {
    avx512::quantize_row,      avx512::quantize_words,  avx512::bfloat16_row,
    avx512::integer_tile,      avx512::codebook_tile,   avx512::bfloat16_tile,
    avx512::float_tile,        avx512::transpose_tile,  portable::words_tile,
    portable::transpose_words, avx512::transpose_bytes, 1};

const Twins& twins() {
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return kAvx512Twins;
    case CpuIsa::kAvx2:
      return kAvx2Twins;
    case CpuIsa::kPortable:
      break;
  }
  return kPortableTwins;
}

// Activation rows that share a pass over the weights: 192 rows x 1536 k x 2 bytes stay in L2.
constexpr int64_t kRowTile = 192;
// Strips that one piece of a many-row call works on; a multiple of the strips that a tile takes at
// once.
constexpr int64_t kStripTile = 4;
// Bytes of weights that a thread should have to read before a second one is worth waking.
constexpr int64_t kGrainBytes = 24 * 1024;
constexpr int64_t kGrainMultiplies = 256 * 1024;

bool is_integer(Layout layout) { return layout == Layout::kNibbles || layout == Layout::kBytes; }

// Two matrices that can share one prepared x.
bool same_activations(const MatrixView& a, const MatrixView& b) {
  if (is_integer(a.layout) && is_integer(b.layout)) return a.block == b.block;
  return a.layout == b.layout;
}

int terms_of(ActivationBits bits) {
  return bits == ActivationBits::k8 && cpu_isa() == CpuIsa::kAvx512 ? 1 : 2;
}

// x in the form that w's layout multiplies; the bytes live in `buffer`.
ActivationView prepare_activations(const Twins& twins, const MatrixView& w, const float* x,
                                   int64_t m, int64_t ldx, int terms, AlignedBuffer* buffer) {
  ActivationView view = {};
  if (w.layout == Layout::kF32) {
    view.codes = reinterpret_cast<const uint8_t*>(x);
    view.row_bytes = ldx * static_cast<int64_t>(sizeof(float));
    return view;
  }
  const int64_t element = is_integer(w.layout) && terms == 1 ? twins.one_term_bytes : 2;
  const int64_t row_bytes = (w.k * element + 63) / 64 * 64;
  uint8_t* codes = buffer->reserve(m * (row_bytes + w.blocks * 8));
  float* scales = reinterpret_cast<float*>(codes + m * row_bytes);
  float* sums = scales + m * w.blocks;
  parallel_for(m, std::max<int64_t>(1, 32768 / w.k), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (w.layout == Layout::kBF16) {
        twins.bfloat16_row(x + row * ldx, w.k,
                           reinterpret_cast<uint16_t*>(codes + row * row_bytes));
      } else {
        uint8_t* out = codes + row * row_bytes;
        float* row_scales = scales + row * w.blocks;
        float* row_sums = sums + row * w.blocks;
        if (w.layout == Layout::kCodebook) {
          twins.quantize_words(x + row * ldx, w.k, w.block, out, row_scales, row_sums);
        } else {
          twins.quantize_row(x + row * ldx, w.k, w.block, terms, out, row_scales, row_sums);
        }
      }
    }
  });
  view.terms = terms;
  view.codes = codes;
  view.row_bytes = row_bytes;
  view.scales = scales;
  view.sums = sums;
  view.scale_stride = w.blocks;
  return view;
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

// Work is cut into units of (row tile, strip tile), row tiles outermost, and each thread takes a
// run of units: within a run the activations stay in cache and the weights stream.
struct Plan {
  int64_t row_tiles = 0;
  int64_t rows_per_tile = 0;
  int64_t strips_per_unit = 0;
  std::vector<int64_t> first_unit;  // of each target within a row tile, and the end
};

Plan make_plan(const MatmulTarget* targets, int64_t count, int64_t m) {
  Plan plan;
  plan.row_tiles = (m + kRowTile - 1) / kRowTile;
  plan.rows_per_tile = (m + plan.row_tiles - 1) / plan.row_tiles;
  plan.strips_per_unit = m == 1 ? 2 : kStripTile;
  plan.first_unit.resize(static_cast<size_t>(count) + 1);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t strips = view_of(*targets[i].weight).strips;
    plan.first_unit[i + 1] =
        plan.first_unit[i] + (strips + plan.strips_per_unit - 1) / plan.strips_per_unit;
  }
  return plan;
}

// Runs units [begin, end) of one row tile.
void run_units(const Twins& twins, const Plan& plan, const MatmulTarget* targets, int64_t count,
               const ActivationView& x, int64_t m, int64_t row_tile, int64_t begin, int64_t end) {
  TileRange range = {};
  range.row_begin = row_tile * plan.rows_per_tile;
  range.row_end = std::min(m, range.row_begin + plan.rows_per_tile);
  for (int64_t i = 0; i < count; ++i) {
    const MatrixView& w = view_of(*targets[i].weight);
    const int64_t first = std::max(begin, plan.first_unit[i]) - plan.first_unit[i];
    const int64_t last = std::min(end, plan.first_unit[i + 1]) - plan.first_unit[i];
    if (first >= last) continue;
    range.strip_begin = first * plan.strips_per_unit;
    range.strip_end = std::min(w.strips, last * plan.strips_per_unit);
    run_tile(twins, w, x, range, targets[i].y, targets[i].ldy);
  }
}

// Units that a thread should have at least.
int64_t unit_grain(const Plan& plan, const MatrixView& w, int64_t m) {
  const int64_t unit_bytes = plan.strips_per_unit * (w.strip_bytes + w.blocks * 64);
  const int64_t unit_multiplies = plan.rows_per_tile * plan.strips_per_unit * kStripRows * w.k;
  const int64_t by_bytes = (kGrainBytes + unit_bytes - 1) / unit_bytes;
  const int64_t by_work = (kGrainMultiplies + unit_multiplies - 1) / unit_multiplies;
  return m == 1 ? by_bytes : std::min(by_bytes, by_work);
}

// All targets take the same prepared activations.
void multiply_group(const MatmulTarget* targets, int64_t count, const float* x, int64_t m,
                    int64_t ldx, ActivationBits bits) {
  thread_local AlignedBuffer buffer;
  const Twins& chosen = twins();
  const MatrixView& first = view_of(*targets[0].weight);
  const ActivationView activations =
      prepare_activations(chosen, first, x, m, ldx, terms_of(bits), &buffer);
  const Plan plan = make_plan(targets, count, m);
  const int64_t units = plan.first_unit.back();
  parallel_for(units * plan.row_tiles, unit_grain(plan, first, m), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row_tile = begin / units;
      const int64_t stop = std::min(end, (row_tile + 1) * units);
      run_units(chosen, plan, targets, count, activations, m, row_tile, begin - row_tile * units,
                stop - row_tile * units);
      begin = stop;
    }
  });
}

// Columns of x that a panel of W^T covers, and the most rows of W in it: 32 x 4096 elements of two
// bytes stay in L2.
constexpr int64_t kPanelStrips = 2;
constexpr int64_t kPanelDepth = 4096;

// Rows of W that share a scale in a panel of integers.
int64_t panel_block(Layout layout) { return layout == Layout::kBytes ? kByteBlock : kWordBlock; }

Layout transposed_layout(const PackedMatrix& weight, ActivationBits bits) {
  if (weight.precision() == Precision::kExact) return Layout::kF32;
  if (cpu_isa() == CpuIsa::kAvx2) return Layout::kWords;
  return terms_of(bits) == 1 ? Layout::kBytes : Layout::kBF16;
}

bool is_dense(Layout layout) { return layout == Layout::kF32 || layout == Layout::kBF16; }

// quantize_row of n elements in whole blocks, the last one filled up with zeros.
void quantize_padded_row(const Twins& twins, const float* y, int64_t n, int64_t block, int terms,
                         uint8_t* codes, float* scales, float* sums) {
  const int64_t whole = n / block * block;
  twins.quantize_row(y, whole, block, terms, codes, scales, sums);
  if (whole == n) return;
  float rest[kByteBlock] = {};
  std::copy(y + whole, y + n, rest);
  const int64_t last = whole / block;
  const int64_t element = terms == 1 ? twins.one_term_bytes : 2;
  twins.quantize_row(rest, block, block, terms, codes + element * whole, scales + last,
                     sums + last);
}

// y as the tiles of W^T want it.
ActivationView prepare_gradient(const Twins& twins, Layout layout, const float* y, int64_t m,
                                int64_t n, int64_t ldy, AlignedBuffer* buffer) {
  ActivationView view = {};
  if (layout == Layout::kF32) {
    view.codes = reinterpret_cast<const uint8_t*>(y);
    view.row_bytes = ldy * static_cast<int64_t>(sizeof(float));
    return view;
  }
  const int64_t block = panel_block(layout);
  const int64_t blocks = (n + block - 1) / block;
  view.terms = layout == Layout::kBytes ? 1 : 2;
  view.row_bytes = blocks * block * (view.terms == 1 ? twins.one_term_bytes : 2);
  view.scale_stride = blocks;
  uint8_t* codes = buffer->reserve(m * (view.row_bytes + blocks * 8));
  float* scales = reinterpret_cast<float*>(codes + m * view.row_bytes);
  float* sums = scales + m * blocks;
  parallel_for(m, std::max<int64_t>(1, 32768 / n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      uint8_t* out = codes + row * view.row_bytes;
      if (layout == Layout::kBF16) {
        twins.bfloat16_row(y + row * ldy, n, reinterpret_cast<uint16_t*>(out));
        continue;
      }
      quantize_padded_row(twins, y + row * ldy, n, block, view.terms, out, scales + row * blocks,
                          sums + row * blocks);
      if (layout != Layout::kBytes) continue;
      for (int64_t b = 0; b < blocks; ++b) sums[row * blocks + b] *= -kByteCenter;
    }
  });
  view.codes = codes;
  view.scales = scales;
  view.sums = sums;
  return view;
}

// A panel of W^T and the memory that it stands in.
struct TransposedPanel {
  MatrixView view = {};
  AlignedBuffer codes;
  AlignedBuffer scales;
};

// Rows [first_row, last_row) of W and the columns from 16 * first_strip on, as strips of W^T.
void make_transposed_panel(const Twins& twins, const MatrixView& w, Layout layout,
                           int64_t first_strip, int64_t first_row, int64_t last_row,
                           TransposedPanel& panel) {
  const int64_t tile_rows = is_dense(layout) ? kStripRows : panel_block(layout);
  const int64_t tiles = (last_row - first_row + tile_rows - 1) / tile_rows;
  const int64_t element_bytes = layout == Layout::kF32 ? 4 : layout == Layout::kBytes ? 1 : 2;
  const int64_t tile_bytes = tile_rows * kStripRows * element_bytes;
  MatrixView& view = panel.view;
  view.layout = layout;
  view.n = std::min(w.k - first_strip * kStripRows, kPanelStrips * kStripRows);
  view.k = is_dense(layout) ? last_row - first_row : tiles * tile_rows;
  view.strips = (view.n + kStripRows - 1) / kStripRows;
  view.strip_bytes = tiles * tile_bytes;
  view.block = tile_rows;
  view.blocks = tiles;
  uint8_t* codes = panel.codes.reserve(kPanelStrips * view.strip_bytes);
  float* scales = reinterpret_cast<float*>(panel.scales.reserve(kPanelStrips * tiles * 64));
  for (int64_t s = 0; s < view.strips; ++s) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t strip = (first_row + tile * tile_rows) / kStripRows;
      const int64_t column = (first_strip + s) * kStripRows;
      uint8_t* out = codes + s * view.strip_bytes + tile * tile_bytes;
      float* tile_scales = scales + (s * tiles + tile) * kStripRows;
      if (layout == Layout::kWords) {
        twins.transpose_words(w, strip, column, out, tile_scales);
      } else if (layout == Layout::kBytes) {
        twins.transpose_bytes(w, strip, column, out, tile_scales);
      } else {
        twins.transpose_tile(w, strip, column, layout, out);
      }
    }
  }
  view.codes = codes;
  view.float_scales = scales;
  view.center = kByteCenter;
}

// One panel of columns of x.
void multiply_panel(const Twins& twins, const MatrixView& w, Layout layout, const ActivationView& y,
                    int64_t m, int64_t first_strip, float* x, int64_t ldx) {
  thread_local TransposedPanel panel;
  thread_local AlignedBuffer partial;
  const int64_t element = layout == Layout::kF32     ? 4
                          : layout == Layout::kBytes ? twins.one_term_bytes
                                                     : 2;
  const int64_t width = kPanelStrips * kStripRows;
  float* out = x + first_strip * kStripRows;
  for (int64_t row = 0; row < w.n; row += kPanelDepth) {
    const int64_t last = std::min(w.n, row + kPanelDepth);
    make_transposed_panel(twins, w, layout, first_strip, row, last, panel);
    ActivationView part = y;
    part.codes += row * element;
    if (!is_dense(layout)) {
      part.scales += row / panel_block(layout);
      part.sums += row / panel_block(layout);
    }
    const TileRange range = {0, m, 0, panel.view.strips};
    if (row == 0) {
      run_tile(twins, panel.view, part, range, out, ldx);
      continue;
    }
    float* sums = reinterpret_cast<float*>(partial.reserve(m * width * 4));
    run_tile(twins, panel.view, part, range, sums, width);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < panel.view.n; ++j) out[i * ldx + j] += sums[i * width + j];
    }
  }
}

}  // namespace

void matmul_transposed(const PackedMatrix& weight, const float* y, int64_t m, int64_t ldy, float* x,
                       int64_t ldx, ActivationBits bits) {
  if (m <= 0) return;
  thread_local AlignedBuffer buffer;
  const Twins& chosen = twins();
  const MatrixView& w = view_of(weight);
  const Layout layout = transposed_layout(weight, bits);
  const ActivationView gradient = prepare_gradient(chosen, layout, y, m, w.n, ldy, &buffer);
  const int64_t strips = (w.k + kStripRows - 1) / kStripRows;
  const int64_t panels = (strips + kPanelStrips - 1) / kPanelStrips;
  const int64_t panel_work = m * w.n * kPanelStrips * kStripRows;
  // Few panels, each a lot of work: the larger shares come first, so that threads end together.
  const int64_t grain = (kGrainMultiplies + panel_work - 1) / panel_work;
  const int64_t shares = std::min((panels + grain - 1) / grain, 8 * int64_t{num_threads()});
  const auto share_begin = [&](int64_t i) {
    return i * (panels / shares) + std::min(i, panels % shares);
  };
  parallel_for(shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = share_begin(begin); panel < share_begin(end); ++panel) {
      multiply_panel(chosen, w, layout, gradient, m, panel * kPanelStrips, x, ldx);
    }
  });
}

void matmul_transposed_reference(const PackedMatrix& weight, const float* y, int64_t m, int64_t ldy,
                                 float* x, int64_t ldx, ActivationBits bits) {
  if (m <= 0) return;
  AlignedBuffer buffer;
  const MatrixView& w = view_of(weight);
  const Layout layout = transposed_layout(weight, bits);
  const ActivationView gradient = prepare_gradient(kPortableTwins, layout, y, m, w.n, ldy, &buffer);
  for (int64_t strip = 0; strip * kStripRows < w.k; strip += kPanelStrips) {
    multiply_panel(kPortableTwins, w, layout, gradient, m, strip, x, ldx);
  }
}

void matmul(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y,
            int64_t ldy, ActivationBits bits) {
  if (m <= 0) return;
  const MatmulTarget target = {&weight, y, ldy};
  multiply_group(&target, 1, x, m, ldx, bits);
}

void matmul_group(const std::vector<MatmulTarget>& targets, const float* x, int64_t m, int64_t ldx,
                  ActivationBits bits) {
  if (m <= 0) return;
  for (const MatmulTarget& target : targets) {
    QUARRY_CHECK(target.weight->k() == targets[0].weight->k(), ErrorCode::kInvalidArgument,
                 "matmul_group: weights with ", target.weight->k(), " and ", targets[0].weight->k(),
                 " in_features cannot share x");
  }
  const int64_t count = static_cast<int64_t>(targets.size());
  for (int64_t begin = 0, end = 0; begin < count; begin = end) {
    const MatrixView& first = view_of(*targets[begin].weight);
    for (end = begin + 1; end < count; ++end) {
      if (!same_activations(first, view_of(*targets[end].weight))) break;
    }
    multiply_group(targets.data() + begin, end - begin, x, m, ldx, bits);
  }
}

void matmul_reference(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y,
                      int64_t ldy, ActivationBits bits) {
  if (m <= 0) return;
  AlignedBuffer buffer;
  const MatrixView& w = view_of(weight);
  const ActivationView activations =
      prepare_activations(kPortableTwins, w, x, m, ldx, terms_of(bits), &buffer);
  const TileRange range = {0, m, 0, w.strips};
  run_tile(kPortableTwins, w, activations, range, y, ldy);
}

}  // namespace quarry::kernels
