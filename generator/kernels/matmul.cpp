#include "generator/kernels/matmul.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/low_rank_pair.h"
#include "generator/kernels/matmul_dispatch.h"
#include "generator/kernels/matmul_panels.h"
#include "generator/kernels/packed_strips.h"

namespace quarry::kernels {
namespace {

// Activation rows that share a pass over the weights: 192 rows x 1536 k x 2 bytes stay in L2.
constexpr int64_t kRowTile = 192;
// Strips that one piece of a many-row call works on; a multiple of the strips that a tile takes at
// once.
constexpr int64_t kStripTile = 4;

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

// u = A x of each update, rows one after the other. The threads of the product make it in pieces
// before they begin with the rest, and nobody waits for it who has something else to do.
class Projections {
 public:
  explicit Projections(const std::vector<LowRankUpdate>& updates) : updates_(updates) {
    u_offsets_.reserve(updates.size());
    pieces_.reserve(updates.size());
    for (const LowRankUpdate& update : updates) {
      u_offsets_.push_back(bytes_);
      bytes_ += (update.row_end - update.row_begin) * update.pair->u_bytes();
      for (int64_t row = update.row_begin; row < update.row_end; row += kProjectRows) {
        pieces_.push_back({u_offsets_.size() - 1, row});
      }
    }
  }

  // `x` as kBytes with a center take it.
  void start(const ActivationView& x, AlignedBuffer* buffer) {
    x_ = x;
    u_ = buffer->reserve(bytes_);
  }

  int64_t num_pieces() const { return static_cast<int64_t>(pieces_.size()); }

  // Makes pieces that no thread has begun, up to `most`.
  void help(const Twins& twins, int64_t most) {
    const int64_t count = num_pieces();
    for (int64_t i = next_.load(); most > 0 && i < count && (i = next_++) < count; --most) {
      const Finished finished(finished_);
      make_piece(twins, pieces_[i]);
    }
  }

  // What add() of this tile will read: too little at a time for the CPU to see it coming.
  void prefetch(size_t target, const TileRange& range) const {
    for (const LowRankUpdate& update : updates_) {
      if (update.target != target) continue;
      const Columns columns = columns_of(update, range);
      if (columns.begin >= columns.end || range.row_begin >= update.row_end ||
          range.row_end <= update.row_begin) {
        continue;
      }
      update.pair->prefetch(columns.begin - update.column, columns.end - update.column);
    }
  }

  // Adds what the updates of a target give to a tile of y. A thread that has called help().
  void add(size_t target, const TileRange& range, float* y, int64_t ldy) const {
    while (finished_.load(std::memory_order_acquire) < static_cast<int64_t>(pieces_.size())) {
      std::this_thread::yield();
    }
    for (size_t i = 0; i < updates_.size(); ++i) {
      const LowRankUpdate& update = updates_[i];
      if (update.target != target) continue;
      const int64_t row = std::max(range.row_begin, update.row_begin);
      const int64_t rows = std::min(range.row_end, update.row_end) - row;
      const Columns columns = columns_of(update, range);
      if (rows <= 0 || columns.begin >= columns.end) continue;
      update.pair->add(u_of(i, row), rows, columns.begin - update.column,
                       columns.end - update.column, y + row * ldy + columns.begin, ldy);
    }
  }

 private:
  struct Piece {
    size_t update;
    int64_t row;
  };
  struct Columns {
    int64_t begin;
    int64_t end;
  };
  // Counts a piece at its end, even when it throws: others wait for it.
  class Finished {
   public:
    explicit Finished(std::atomic<int64_t>& count) : count_(count) {}
    ~Finished() { count_.fetch_add(1, std::memory_order_release); }
    Finished(const Finished&) = delete;
    Finished& operator=(const Finished&) = delete;

   private:
    std::atomic<int64_t>& count_;
  };

  // Those of a target that a tile and an update have in common, if any.
  static Columns columns_of(const LowRankUpdate& update, const TileRange& range) {
    return {std::max(range.strip_begin * kStripRows, update.column),
            std::min(range.strip_end * kStripRows, update.column + update.pair->n())};
  }

  uint8_t* u_of(size_t i, int64_t row) const {
    return u_ + u_offsets_[i] + (row - updates_[i].row_begin) * updates_[i].pair->u_bytes();
  }

  void make_piece(const Twins& twins, const Piece& piece) const {
    thread_local AlignedBuffer products;
    const LowRankUpdate& update = updates_[piece.update];
    const MatrixView& a = view_of(update.pair->a());
    const int64_t rows = std::min(kProjectRows, update.row_end - piece.row);
    auto* out = reinterpret_cast<float*>(products.reserve(rows * a.n * 4));
    const TileRange range = {piece.row, piece.row + rows, 0, a.strips};
    run_tile(twins, a, x_, range, out - piece.row * a.n, a.n);
    update.pair->make_u(out, rows, u_of(piece.update, piece.row));
  }

  const std::vector<LowRankUpdate>& updates_;
  std::vector<int64_t> u_offsets_;
  std::vector<Piece> pieces_;
  int64_t bytes_ = 0;
  ActivationView x_ = {};
  uint8_t* u_ = nullptr;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> finished_{0};
};

// Runs units [begin, end) of one row tile.
void run_units(const Twins& twins, const Plan& plan, const Group& group, Projections& projections,
               const ActivationView& x, int64_t m, int64_t row_tile, int64_t begin, int64_t end) {
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
    const bool has_few_rows = range.row_end - range.row_begin <= kFewRows;
    const bool in_tile = twins.adds_bias && (is_integer(w.layout) || w.layout == Layout::kBF16);
    MatrixView with_bias = w;
    with_bias.bias = in_tile ? target.bias : nullptr;
    const int64_t step = group.updates.empty() ? end_strip : kStripTile;
    const auto number = static_cast<size_t>(i);
    for (int64_t strip = first * plan.strips_per_unit; strip < end_strip; strip += step) {
      range.strip_begin = strip;
      range.strip_end = std::min(end_strip, strip + step);
      if (has_few_rows) projections.prefetch(number, range);
      run_tile(twins, with_bias, x, range, target.y, target.ldy);
      if (!in_tile) add_tile_bias(target.bias, w.n, range, target.y, target.ldy);
      if (!has_few_rows) projections.add(number, range, target.y, target.ldy);
    }
    if (!has_few_rows) continue;
    range.strip_begin = first * plan.strips_per_unit;
    // A piece that nobody has begun may be this thread's own, later.
    projections.help(twins, projections.num_pieces());
    projections.add(number, range, target.y, target.ldy);
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
    projections.start(low_rank, &u_buffer);
  } else if (!group.updates.empty()) {
    projections.start(
        prepare_activations(chosen, group.updates[0].pair->a(), x, m, ldx, &low_rank_buffer),
        &u_buffer);
  }
  const Plan plan = make_plan(group.targets, group.count, m);
  const int64_t units = plan.first_unit.back();
  // An A of rank 16 has about the bytes of a unit of one row: counted as one, so that threads get
  // the same to read.
  const int64_t project = m <= kFewRows ? projections.num_pieces() : 0;
  const int64_t total = project + units * plan.row_tiles;
  parallel_for(total, unit_grain(plan, view, m), [&](int64_t begin, int64_t end) {
    const int64_t all = projections.num_pieces();
    projections.help(chosen, project > 0 ? std::min(end, project) - begin : all);
    begin = std::max(begin, project) - project;
    end = std::max(end, project) - project;
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

// Whether a forward product rounds W, which is quantized, to bytes once more.
bool rounds_to_bytes(const MatrixView& w, ActivationBits bits) {
  return multiplies_bytes(bits) && !is_dense(w.layout);
}

}  // namespace

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
    return multiply_bytes_reference(weight, x, m, ldx, y, ldy);
  }
  AlignedBuffer buffer;
  const ActivationView activations =
      prepare_activations(portable_twins(), weight, x, m, ldx, &buffer);
  const TileRange range = {0, m, 0, w.strips};
  run_tile(portable_twins(), w, activations, range, y, ldy);
}

}  // namespace quarry::kernels
