#include "generator/kernels/matmul_panels.h"

#include <algorithm>
#include <vector>

#include "data/core/cpu_isa.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/matmul_dispatch.h"
#include "generator/kernels/packed_strips.h"

// A product of m rows by W^T, or by W for the backward pass, one panel of its columns at a time:
// the panel is decoded into what the CPU multiplies fastest, and all m rows pass by it.
namespace quarry::kernels {
namespace {

// What a panel is cut from: W, whose rows it holds as they are, or W^T.
struct PanelSource {
  const MatrixView& w;
  bool is_transposed;

  int64_t width() const { return is_transposed ? w.k : w.n; }
  int64_t depth() const { return is_transposed ? w.n : w.k; }
};

// Strips of a panel, and the most of its depth at once: 32 x 4096 elements of two bytes stay in L2.
constexpr int64_t kPanelStrips = 2;
constexpr int64_t kPanelDepth = 4096;

// Depth that shares a scale in a panel of integers.
int64_t panel_block(Layout layout) { return layout == Layout::kBytes ? kByteBlock : kWordBlock; }

Layout transposed_layout(const PackedMatrix& weight, ActivationBits bits) {
  if (weight.precision() == Precision::kExact) return Layout::kF32;
  if (cpu_isa() == CpuIsa::kAvx2) return Layout::kWords;
  return multiplies_bytes(bits) ? Layout::kBytes : Layout::kBF16;
}

// quantize_row of n elements in whole blocks, the last one filled up with zeros.
void quantize_padded_row(const Twins& twins, const float* y, int64_t n, int64_t block, int terms,
                         uint8_t* codes, float* scales, int32_t* sums) {
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

// x [m, depth] as the tiles of a panel want it, and its rounded copy.
ActivationView prepare_rows(const Twins& twins, Layout layout, const float* x, int64_t m,
                            int64_t depth, int64_t ldx, const RoundedCopy& copy,
                            AlignedBuffer* buffer) {
  ActivationView view = {};
  if (layout == Layout::kF32) {
    copy_rounded(x, m, depth, ldx, copy);
    view.codes = reinterpret_cast<const uint8_t*>(x);
    view.row_bytes = ldx * static_cast<int64_t>(sizeof(float));
    return view;
  }
  const int64_t block = panel_block(layout);
  const int64_t blocks = (depth + block - 1) / block;
  const int terms = layout == Layout::kBytes ? 1 : 2;
  view.terms = terms;
  view.row_bytes = blocks * block * (terms == 1 ? twins.one_term_bytes : 2);
  view.scale_stride = blocks;
  uint8_t* codes = buffer->reserve(m * (view.row_bytes + blocks * 8));
  float* scales = reinterpret_cast<float*>(codes + m * view.row_bytes);
  int32_t* sums = reinterpret_cast<int32_t*>(scales + m * blocks);
  parallel_for(m, std::max<int64_t>(1, 32768 / depth), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (copy.rows != nullptr) {
        float_to_bfloat16(x + row * ldx, depth, copy.rows + row * copy.stride);
      }
      uint8_t* out = codes + row * view.row_bytes;
      if (layout == Layout::kBF16) {
        twins.bfloat16_row(x + row * ldx, depth, reinterpret_cast<uint16_t*>(out));
        continue;
      }
      quantize_padded_row(twins, x + row * ldx, depth, block, terms, out, scales + row * blocks,
                          sums + row * blocks);
      if (layout != Layout::kBytes) continue;
      for (int64_t b = 0; b < blocks; ++b) sums[row * blocks + b] *= -kByteCenter;
    }
  });
  view.codes = codes;
  view.scales = scales;
  if (layout == Layout::kBytes) view.centers = sums;
  return view;
}

// A panel and the memory that it stands in.
struct Panel {
  MatrixView view = {};
  AlignedBuffer codes;
  AlignedBuffer scales;
};

// Strips from `first_strip` on, [first, last) of their depth.
void make_panel(const Twins& twins, const PanelSource& source, Layout layout, int64_t first_strip,
                int64_t first, int64_t last, Panel& panel) {
  const int64_t tile_depth = is_dense(layout) ? kStripRows : panel_block(layout);
  const int64_t tiles = (last - first + tile_depth - 1) / tile_depth;
  const int64_t element_bytes = layout == Layout::kF32 ? 4 : layout == Layout::kBytes ? 1 : 2;
  const int64_t tile_bytes = tile_depth * kStripRows * element_bytes;
  MatrixView& view = panel.view;
  view.layout = layout;
  view.n = std::min(source.width() - first_strip * kStripRows, kPanelStrips * kStripRows);
  view.k = is_dense(layout) ? last - first : tiles * tile_depth;
  view.strips = (view.n + kStripRows - 1) / kStripRows;
  view.strip_bytes = tiles * tile_bytes;
  view.block = tile_depth;
  view.blocks = tiles;
  uint8_t* codes = panel.codes.reserve(kPanelStrips * view.strip_bytes);
  float* scales = reinterpret_cast<float*>(panel.scales.reserve(kPanelStrips * tiles * 64));
  for (int64_t s = 0; s < view.strips; ++s) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t depth = first + tile * tile_depth;
      const int64_t strip = first_strip + s;
      uint8_t* out = codes + s * view.strip_bytes + tile * tile_bytes;
      float* tile_scales = scales + (s * tiles + tile) * kStripRows;
      if (!source.is_transposed) {
        twins.round_bytes(source.w, strip, depth, out, tile_scales);
      } else if (layout == Layout::kWords) {
        twins.transpose_words(source.w, depth / kStripRows, strip * kStripRows, out, tile_scales);
      } else if (layout == Layout::kBytes) {
        twins.transpose_bytes(source.w, depth / kStripRows, strip * kStripRows, out, tile_scales);
      } else {
        twins.transpose_tile(source.w, depth / kStripRows, strip * kStripRows, layout, out);
      }
    }
  }
  view.codes = codes;
  view.float_scales = scales;
  view.center = kByteCenter;
}

// The columns of y of one panel; `x` comes from prepare_rows.
void multiply_panel(const Twins& twins, const PanelSource& source, Layout layout,
                    const ActivationView& x, int64_t m, int64_t first_strip, float* y,
                    int64_t ldy) {
  thread_local Panel panel;
  thread_local AlignedBuffer partial;
  const int64_t element = layout == Layout::kF32     ? 4
                          : layout == Layout::kBytes ? twins.one_term_bytes
                                                     : 2;
  const int64_t width = kPanelStrips * kStripRows;
  float* out = y + first_strip * kStripRows;
  for (int64_t first = 0; first < source.depth(); first += kPanelDepth) {
    const int64_t last = std::min(source.depth(), first + kPanelDepth);
    make_panel(twins, source, layout, first_strip, first, last, panel);
    ActivationView part = x;
    part.codes += first * element;
    if (!is_dense(layout)) {
      part.scales += first / panel_block(layout);
      if (part.centers != nullptr) part.centers += first / panel_block(layout);
    }
    const TileRange range = {0, m, 0, panel.view.strips};
    if (first == 0) {
      run_tile(twins, panel.view, part, range, out, ldy);
      continue;
    }
    float* sums = reinterpret_cast<float*>(partial.reserve(m * width * 4));
    run_tile(twins, panel.view, part, range, sums, width);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < panel.view.n; ++j) out[i * ldy + j] += sums[i * width + j];
    }
  }
}

int64_t panels_of(const PanelSource& source) {
  return (source.width() + kPanelStrips * kStripRows - 1) / (kPanelStrips * kStripRows);
}

// Runs body(panel) for each of `panels`, which are few and each a lot of work: the larger shares
// come first, so that threads end together.
template <typename Body>
void for_each_panel(int64_t panels, int64_t multiplies_of_panel, const Body& body) {
  const int64_t grain = (kGrainMultiplies + multiplies_of_panel - 1) / multiplies_of_panel;
  const int64_t shares = std::min((panels + grain - 1) / grain, 8 * int64_t{num_threads()});
  const auto share_begin = [&](int64_t i) {
    return i * (panels / shares) + std::min(i, panels % shares);
  };
  parallel_for(shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = share_begin(begin); panel < share_begin(end); ++panel) body(panel);
  });
}

void multiply_panels_reference(const PanelSource& source, Layout layout, const float* x, int64_t m,
                               int64_t ldx, float* y, int64_t ldy) {
  AlignedBuffer buffer;
  const ActivationView rows =
      prepare_rows(portable_twins(), layout, x, m, source.depth(), ldx, {}, &buffer);
  for (int64_t panel = 0; panel < panels_of(source); ++panel) {
    multiply_panel(portable_twins(), source, layout, rows, m, panel * kPanelStrips, y, ldy);
  }
}

}  // namespace

void multiply_group_bytes(const MatmulTarget* targets, int64_t count, const float* x, int64_t m,
                          int64_t ldx, const RoundedCopy& copy) {
  thread_local AlignedBuffer buffer;
  const Twins& chosen = twins();
  const int64_t k = targets[0].weight->k();
  const ActivationView rows = prepare_rows(chosen, Layout::kBytes, x, m, k, ldx, copy, &buffer);
  std::vector<int64_t> end_panel;  // of each target
  for (int64_t i = 0; i < count; ++i) {
    end_panel.push_back((i > 0 ? end_panel.back() : 0) +
                        panels_of({view_of(*targets[i].weight), false}));
  }
  for_each_panel(end_panel.back(), m * k * kPanelStrips * kStripRows, [&](int64_t panel) {
    const auto end = std::upper_bound(end_panel.begin(), end_panel.end(), panel);
    const MatmulTarget& target = targets[end - end_panel.begin()];
    const PanelSource source = {view_of(*target.weight), false};
    const int64_t strip = (panel - (*end - panels_of(source))) * kPanelStrips;
    multiply_panel(chosen, source, Layout::kBytes, rows, m, strip, target.y, target.ldy);
    const TileRange range = {0, m, strip, std::min(source.w.strips, strip + kPanelStrips)};
    add_tile_bias(target.bias, source.w.n, range, target.y, target.ldy);
  });
}

void multiply_bytes_reference(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx,
                              float* y, int64_t ldy) {
  multiply_panels_reference({view_of(weight), false}, Layout::kBytes, x, m, ldx, y, ldy);
}

void matmul_transposed(const PackedMatrix& weight, const float* y, int64_t m, int64_t ldy, float* x,
                       int64_t ldx, ActivationBits bits, const RoundedCopy& copy) {
  if (m <= 0) return;
  thread_local AlignedBuffer buffer;
  const Twins& chosen = twins();
  const PanelSource source = {view_of(weight), true};
  const Layout layout = transposed_layout(weight, bits);
  const ActivationView rows =
      prepare_rows(chosen, layout, y, m, source.depth(), ldy, copy, &buffer);
  for_each_panel(panels_of(source), m * source.depth() * kPanelStrips * kStripRows,
                 [&](int64_t panel) {
                   multiply_panel(chosen, source, layout, rows, m, panel * kPanelStrips, x, ldx);
                 });
}

void matmul_transposed_reference(const PackedMatrix& weight, const float* y, int64_t m, int64_t ldy,
                                 float* x, int64_t ldx, ActivationBits bits) {
  if (m <= 0) return;
  multiply_panels_reference({view_of(weight), true}, transposed_layout(weight, bits), y, m, ldy, x,
                            ldx);
}

}  // namespace quarry::kernels
