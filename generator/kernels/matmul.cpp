#include "generator/kernels/matmul.h"

#include <algorithm>
#include <cstring>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/low_rank_pair.h"
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
  decltype(&portable::round_bytes) round_bytes;
  int64_t one_term_bytes;  // of an activation of one term
  bool adds_bias;          // in integer_tile and bfloat16_tile
};

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

// Signed bytes that an activation is made of.
int activation_terms(const PackedMatrix& weight) {
  return weight.precision() == Precision::kFast8 ? 1 : 2;
}

// Two matrices that can share one prepared x.
bool same_activations(const PackedMatrix& first, const PackedMatrix& second) {
  const MatrixView& a = view_of(first);
  const MatrixView& b = view_of(second);
  if (!is_integer(a.layout) || !is_integer(b.layout)) return a.layout == b.layout;
  const bool has_offsets = a.offsets != nullptr;
  return a.block == b.block && has_offsets == (b.offsets != nullptr) &&
         (has_offsets || a.center == b.center) &&
         activation_terms(first) == activation_terms(second);
}

// Of the integer sums of a row's blocks finish_sums makes, in place, what products with `w` take;
// set_sums points at it.
void set_sums(const MatrixView& w, int32_t* sums, ActivationView* view) {
  if (w.offsets != nullptr) {
    view->sums = reinterpret_cast<const float*>(sums);
  } else if (is_integer(w.layout)) {
    view->centers = sums;
  }
}
void finish_sums(const MatrixView& w, int64_t blocks, const float* scales, int32_t* sums) {
  const auto center = static_cast<int32_t>(w.center);
  for (int64_t b = 0; b < blocks; ++b) {
    if (w.offsets != nullptr) {
      const float sum = scales[b] * static_cast<float>(sums[b]);
      std::memcpy(sums + b, &sum, sizeof(sum));
    } else {
      sums[b] *= -center;
    }
  }
}

// Whether products of bytes are what these activations are for, and the faster ones.
bool multiplies_bytes(ActivationBits bits) {
  return bits == ActivationBits::k8 && cpu_isa() == CpuIsa::kAvx512;
}

// x in the form that w's layout multiplies; the bytes live in `buffer`. `byte_centers`, which only
// an integer layout fills, [m, blocks]: what kBytes with the center kByteCenter take of it.
ActivationView prepare_activations(const Twins& twins, const PackedMatrix& weight, const float* x,
                                   int64_t m, int64_t ldx, AlignedBuffer* buffer,
                                   int32_t* byte_centers = nullptr) {
  const MatrixView& w = view_of(weight);
  ActivationView view = {};
  view.terms = activation_terms(weight);
  if (w.layout == Layout::kF32) {
    view.codes = reinterpret_cast<const uint8_t*>(x);
    view.row_bytes = ldx * static_cast<int64_t>(sizeof(float));
    return view;
  }
  const bool is_one_byte = is_integer(w.layout) && view.terms == 1;
  const int64_t element_bytes = is_one_byte ? twins.one_term_bytes : 2;
  const int64_t row_bytes = (w.k * element_bytes + 63) / 64 * 64;
  uint8_t* codes = buffer->reserve(m * (row_bytes + w.blocks * 8));
  float* scales = reinterpret_cast<float*>(codes + m * row_bytes);
  int32_t* sums = reinterpret_cast<int32_t*>(scales + m * w.blocks);
  parallel_for(m, std::max<int64_t>(1, 32768 / w.k), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (w.layout == Layout::kBF16) {
        twins.bfloat16_row(x + row * ldx, w.k,
                           reinterpret_cast<uint16_t*>(codes + row * row_bytes));
      } else {
        uint8_t* out = codes + row * row_bytes;
        float* row_scales = scales + row * w.blocks;
        int32_t* row_sums = sums + row * w.blocks;
        if (w.layout == Layout::kCodebook) {
          twins.quantize_words(x + row * ldx, w.k, w.block, out, row_scales, row_sums);
        } else {
          twins.quantize_row(x + row * ldx, w.k, w.block, view.terms, out, row_scales, row_sums);
          for (int64_t b = 0; byte_centers != nullptr && b < w.blocks; ++b) {
            byte_centers[row * w.blocks + b] = -kByteCenter * row_sums[b];
          }
          finish_sums(w, w.blocks, row_scales, row_sums);
        }
      }
    }
  });
  view.codes = codes;
  view.row_bytes = row_bytes;
  view.scales = scales;
  set_sums(w, sums, &view);
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

// Adds the bias to the columns of a tile.
void add_tile_bias(const float* bias, int64_t n, const TileRange& range, float* y, int64_t ldy) {
  if (bias == nullptr) return;
  const int64_t begin = range.strip_begin * kStripRows;
  const int64_t count = std::min(n, range.strip_end * kStripRows) - begin;
  for (int64_t row = range.row_begin; row < range.row_end; ++row) {
    float* out = y + row * ldy + begin;
    add(out, bias + begin, count, out);
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

// Targets that take the same prepared activations, and their updates.
struct Group {
  const MatmulTarget* targets;
  int64_t count;
  std::vector<LowRankUpdate> updates;  // `target` counts from targets[0]
};

// Rows up to which the updates wait for all strips of a run: its columns of y are still in cache.
constexpr int64_t kFewRows = 16;
// Rows of an update whose u is made at once.
constexpr int64_t kProjectRows = 96;

// u = A x of each update, rows one after the other.
class Projections {
 public:
  explicit Projections(const std::vector<LowRankUpdate>& updates) : updates_(updates) {
    for (const LowRankUpdate& update : updates) {
      u_offsets_.push_back(bytes_);
      bytes_ += (update.row_end - update.row_begin) * update.pair->u_bytes();
      for (int64_t row = update.row_begin; row < update.row_end; row += kProjectRows) {
        pieces_.push_back({u_offsets_.size() - 1, row});
        multiplies_ += update.pair->a().n() * update.pair->a().k() * kProjectRows;
      }
    }
  }

  // `x` as kBytes with a center take it.
  void make(const Twins& twins, const ActivationView& x, AlignedBuffer* buffer) {
    u_ = buffer->reserve(bytes_);
    const auto pieces = static_cast<int64_t>(pieces_.size());
    if (pieces == 0) return;
    const int64_t grain = (kGrainMultiplies * pieces + multiplies_ - 1) / multiplies_;
    parallel_for(pieces, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) make_piece(twins, x, pieces_[i]);
    });
  }

  // Adds what the updates of a target give to a tile of y.
  void add(size_t target, const TileRange& range, float* y, int64_t ldy) const {
    for (size_t i = 0; i < updates_.size(); ++i) {
      const LowRankUpdate& update = updates_[i];
      if (update.target != target) continue;
      const int64_t row = std::max(range.row_begin, update.row_begin);
      const int64_t rows = std::min(range.row_end, update.row_end) - row;
      const int64_t begin = std::max(range.strip_begin * kStripRows, update.column);
      const int64_t end = std::min(range.strip_end * kStripRows, update.column + update.pair->n());
      if (rows <= 0 || begin >= end) continue;
      update.pair->add(u_of(i, row), rows, begin - update.column, end - update.column,
                       y + row * ldy + begin, ldy);
    }
  }

 private:
  struct Piece {
    size_t update;
    int64_t row;
  };

  uint8_t* u_of(size_t i, int64_t row) const {
    return u_ + u_offsets_[i] + (row - updates_[i].row_begin) * updates_[i].pair->u_bytes();
  }

  void make_piece(const Twins& twins, const ActivationView& x, const Piece& piece) const {
    thread_local AlignedBuffer products;
    const LowRankUpdate& update = updates_[piece.update];
    const MatrixView& a = view_of(update.pair->a());
    const int64_t rows = std::min(kProjectRows, update.row_end - piece.row);
    auto* out = reinterpret_cast<float*>(products.reserve(rows * a.n * 4));
    const TileRange range = {piece.row, piece.row + rows, 0, a.strips};
    run_tile(twins, a, x, range, out - piece.row * a.n, a.n);
    update.pair->make_u(out, rows, u_of(piece.update, piece.row));
  }

  const std::vector<LowRankUpdate>& updates_;
  std::vector<int64_t> u_offsets_;
  std::vector<Piece> pieces_;
  int64_t bytes_ = 0;
  int64_t multiplies_ = 0;
  uint8_t* u_ = nullptr;
};

// Runs units [begin, end) of one row tile.
void run_units(const Twins& twins, const Plan& plan, const Group& group,
               const Projections& projections, const ActivationView& x, int64_t m, int64_t row_tile,
               int64_t begin, int64_t end) {
  TileRange range = {};
  range.row_begin = row_tile * plan.rows_per_tile;
  range.row_end = std::min(m, range.row_begin + plan.rows_per_tile);
  for (int64_t i = 0; i < group.count; ++i) {
    const MatmulTarget& target = group.targets[i];
    const MatrixView& w = view_of(*target.weight);
    const int64_t first = std::max(begin, plan.first_unit[i]) - plan.first_unit[i];
    const int64_t last = std::min(end, plan.first_unit[i + 1]) - plan.first_unit[i];
    if (first >= last) continue;
    const int64_t end_strip = std::min(w.strips, last * plan.strips_per_unit);
    const bool waits = group.updates.empty() || range.row_end - range.row_begin <= kFewRows;
    const int64_t step = waits ? end_strip : plan.strips_per_unit;
    const bool in_tile = twins.adds_bias && (is_integer(w.layout) || w.layout == Layout::kBF16);
    MatrixView with_bias = w;
    with_bias.bias = in_tile ? target.bias : nullptr;
    for (int64_t strip = first * plan.strips_per_unit; strip < end_strip; strip += step) {
      range.strip_begin = strip;
      range.strip_end = std::min(end_strip, strip + step);
      run_tile(twins, with_bias, x, range, target.y, target.ldy);
      if (!in_tile) add_tile_bias(target.bias, w.n, range, target.y, target.ldy);
      projections.add(static_cast<size_t>(i), range, target.y, target.ldy);
    }
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

void multiply_group(const Group& group, const float* x, int64_t m, int64_t ldx) {
  thread_local AlignedBuffer buffer, center_buffer, low_rank_buffer, u_buffer;
  const Twins& chosen = twins();
  const PackedMatrix& first = *group.targets[0].weight;
  const MatrixView& view = view_of(first);
  const bool shares = !group.updates.empty() && is_integer(view.layout);
  int32_t* centers =
      shares ? reinterpret_cast<int32_t*>(center_buffer.reserve(m * view.blocks * 4)) : nullptr;
  const ActivationView activations =
      prepare_activations(chosen, first, x, m, ldx, &buffer, centers);
  Projections projections(group.updates);
  if (shares) {
    ActivationView low_rank = activations;
    low_rank.centers = centers;
    projections.make(chosen, low_rank, &u_buffer);
  } else if (!group.updates.empty()) {
    projections.make(
        chosen,
        prepare_activations(chosen, group.updates[0].pair->a(), x, m, ldx, &low_rank_buffer),
        &u_buffer);
  }
  const Plan plan = make_plan(group.targets, group.count, m);
  const int64_t units = plan.first_unit.back();
  parallel_for(units * plan.row_tiles, unit_grain(plan, view, m), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t row_tile = begin / units;
      const int64_t stop = std::min(end, (row_tile + 1) * units);
      run_units(chosen, plan, group, projections, activations, m, row_tile,
                begin - row_tile * units, stop - row_tile * units);
      begin = stop;
    }
  });
}

// The updates of targets [begin, end), whose numbers then count from `begin`.
std::vector<LowRankUpdate> updates_of(const std::vector<LowRankUpdate>& updates, int64_t begin,
                                      int64_t end) {
  std::vector<LowRankUpdate> own;
  for (LowRankUpdate update : updates) {
    const auto target = static_cast<int64_t>(update.target);
    if (target < begin || target >= end) continue;
    update.target = static_cast<size_t>(target - begin);
    own.push_back(update);
  }
  return own;
}

// A product of m rows by W^T, or by W for the backward pass, one panel of its columns at a time:
// the panel is decoded into what the CPU multiplies fastest, and all m rows pass by it.

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

bool is_dense(Layout layout) { return layout == Layout::kF32 || layout == Layout::kBF16; }

// Whether a forward product rounds W, which is quantized, to bytes once more.
bool rounds_to_bytes(const MatrixView& w, ActivationBits bits) {
  return multiplies_bytes(bits) && !is_dense(w.layout);
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

void copy_rounded(const float* x, int64_t m, int64_t width, int64_t ldx, const RoundedCopy& copy) {
  if (copy.rows == nullptr) return;
  parallel_for(m, std::max<int64_t>(1, 32768 / width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float_to_bfloat16(x + row * ldx, width, copy.rows + row * copy.stride);
    }
  });
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

// multiply_group with weights and activations rounded to bytes.
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

void multiply_panels_reference(const PanelSource& source, Layout layout, const float* x, int64_t m,
                               int64_t ldx, float* y, int64_t ldy) {
  AlignedBuffer buffer;
  const ActivationView rows =
      prepare_rows(kPortableTwins, layout, x, m, source.depth(), ldx, {}, &buffer);
  for (int64_t panel = 0; panel < panels_of(source); ++panel) {
    multiply_panel(kPortableTwins, source, layout, rows, m, panel * kPanelStrips, y, ldy);
  }
}

}  // namespace

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

void matmul(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y,
            int64_t ldy, ActivationBits bits) {
  if (m <= 0) return;
  const MatmulTarget target = {&weight, y, ldy, nullptr};
  if (rounds_to_bytes(view_of(weight), bits))
    return multiply_group_bytes(&target, 1, x, m, ldx, {});
  multiply_group({&target, 1, {}}, x, m, ldx);
}

void matmul_group(const std::vector<MatmulTarget>& targets, const float* x, int64_t m, int64_t ldx,
                  ActivationBits bits, const RoundedCopy& copy,
                  const std::vector<LowRankUpdate>& updates) {
  if (m <= 0) return;
  QUARRY_DCHECK(updates.empty() || bits == ActivationBits::k16);
  QUARRY_DCHECK(std::all_of(updates.begin(), updates.end(), [&](const LowRankUpdate& update) {
    return update.pair->form() == low_rank_form(*targets[update.target].weight);
  }));
  for (const MatmulTarget& target : targets) {
    QUARRY_CHECK(target.weight->k() == targets[0].weight->k(), ErrorCode::kInvalidArgument,
                 "matmul_group: weights with ", target.weight->k(), " and ", targets[0].weight->k(),
                 " in_features cannot share x");
  }
  const int64_t count = static_cast<int64_t>(targets.size());
  for (int64_t begin = 0, end = 0; begin < count; begin = end) {
    const MatrixView& first = view_of(*targets[begin].weight);
    const bool to_bytes = rounds_to_bytes(first, bits);
    for (end = begin + 1; end < count; ++end) {
      const PackedMatrix& next = *targets[end].weight;
      if (to_bytes ? !rounds_to_bytes(view_of(next), bits)
                   : !same_activations(*targets[begin].weight, next)) {
        break;
      }
    }
    if (to_bytes) {
      multiply_group_bytes(targets.data() + begin, end - begin, x, m, ldx,
                           begin == 0 ? copy : RoundedCopy());
    } else {
      if (begin == 0) copy_rounded(x, m, first.k, ldx, copy);
      multiply_group({targets.data() + begin, end - begin, updates_of(updates, begin, end)}, x, m,
                     ldx);
    }
  }
}

void matmul_reference(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y,
                      int64_t ldy, ActivationBits bits) {
  if (m <= 0) return;
  const MatrixView& w = view_of(weight);
  if (rounds_to_bytes(w, bits)) {
    return multiply_panels_reference({w, false}, Layout::kBytes, x, m, ldx, y, ldy);
  }
  AlignedBuffer buffer;
  const ActivationView activations =
      prepare_activations(kPortableTwins, weight, x, m, ldx, &buffer);
  const TileRange range = {0, m, 0, w.strips};
  run_tile(kPortableTwins, w, activations, range, y, ldy);
}

}  // namespace quarry::kernels
