// What the adapters of a step add to a Linear, forward and backward.
#include <algorithm>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/gemm.h"
#include "generator/kernels/gemm_bfloat16.h"
#include "generator/kernels/low_rank.h"
#include "generator/nn/autograd.h"
#include "generator/nn/linear.h"

namespace quarry::nn {
namespace {

constexpr int64_t kRowGrain = 64;
constexpr int64_t kColumnGrain = 256;

// Columns [offset, offset + width) of `rows` rows from `first` on.
struct Columns {
  int64_t first;
  int64_t rows;
  int64_t offset;
  int64_t width;
};

// What one product of an adapter takes: rows of float32, or of bfloat16 where `rounded` has data.
struct AdapterRows {
  Tensor floats;
  kernels::BFloat16Rows rounded;
  SavedActivation owner;  // of rounded, or empty

  bool rounds() const { return rounded.data != nullptr; }
};

kernels::BFloat16Rows rounded_columns(const SavedActivation& matrix, int64_t stride,
                                      const Columns& where) {
  return {matrix.bfloat16_rows() + where.first * stride + where.offset, stride, where.rows,
          where.width};
}

// The rows of x [T, width] that an adapter sees without dropout. x may be undefined if rounded.
AdapterRows plain_rows(const Tensor& x, const SavedActivation* rounded, const AdapterSpan& span,
                       int64_t width) {
  AdapterRows rows;
  if (rounded == nullptr) {
    rows.floats = x.detach().narrow(0, span.begin, span.num_rows());
  } else {
    rows.rounded = rounded_columns(*rounded, width, {span.begin, span.num_rows(), 0, width});
  }
  return rows;
}

bool drops(const AdapterSpan& span) { return span.trains() && span.gradients->dropout() > 0.0f; }

// The same after dropout, when the adapter is trained with one.
AdapterRows dropped_rows(const Tensor& x, const SavedActivation* rounded, const AdapterSpan& span,
                         int64_t width, const std::string& path, Workspace& workspace) {
  AdapterRows rows = plain_rows(x, rounded, span, width);
  if (!drops(span)) return rows;
  const int64_t count = span.num_rows();
  rows.floats = workspace.empty(count, width).detach();
  rows.floats.copy_(x.detach().narrow(0, span.begin, count));
  span.gradients->drop(path, count, width, rows.floats.data_ptr<float>());
  if (rounded == nullptr) return rows;
  rows.owner = SavedActivation(rows.floats, workspace);
  rows.rounded = rounded_columns(rows.owner, width, {0, count, 0, width});
  return rows;
}

// A x  [rows, rank].
Tensor project(const LoraWeights& lora, const AdapterRows& x, int64_t num_rows, int64_t in_features,
               Workspace& workspace) {
  Tensor low_rank = workspace.empty(num_rows, lora.rank);
  if (x.rounds()) {
    kernels::low_rank_project(x.rounded, lora.a.data(), lora.rank, low_rank.data_ptr<float>());
  } else {
    kernels::matmul(*lora.packed_a, x.floats.data_ptr<float>(), num_rows, in_features,
                    low_rank.data_ptr<float>(), lora.rank);
  }
  return low_rank;
}

// out [rows, width], row stride ldc, = or += low_rank [rows, rank] weights [rank, width].
enum class Sum { kReplace, kAdd };
void expand(const Tensor& low_rank, const float* weights, int64_t width, int64_t ldc, Sum sum,
            float* out) {
  kernels::GemmShape shape;
  shape.m = low_rank.size(0);
  shape.n = width;
  shape.k = low_rank.size(1);
  shape.a_row_stride = low_rank.size(1);
  shape.ldb = width;
  shape.ldc = ldc;
  shape.accumulate = sum == Sum::kAdd;
  kernels::gemm(shape, low_rank.data_ptr<float>(), weights, out);
}

// y += scale * B (A x), for x [rows, in].
void add_update(const LoraWeights& lora, const AdapterRows& x, int64_t in_features,
                const Columns& where, Tensor& y, Workspace& workspace) {
  const Tensor low_rank = project(lora, x, where.rows, in_features, workspace);
  float* out = mutable_row_data(y, where.first) + where.offset;
  if (x.rounds()) {
    kernels::low_rank_expand(low_rank.data_ptr<float>(), where.rows, lora.rank,
                             lora.scaled_b.data(), where.width, out, y.size(1));
  } else {
    expand(low_rank, lora.scaled_b.data(), where.width, y.size(1), Sum::kAdd, out);
  }
}

// g = scale * B^T dy  [rows, rank].
Tensor low_rank_gradient(const LoraWeights& lora, const Tensor& dy, const SavedActivation* rounded,
                         const Columns& where, Workspace& workspace) {
  Tensor g = workspace.empty(where.rows, lora.rank);
  if (rounded != nullptr) {
    kernels::low_rank_project(rounded_columns(*rounded, dy.size(1), where), lora.scaled_b.data(),
                              lora.rank, g.data_ptr<float>());
    return g;
  }
  kernels::GemmShape shape;
  shape.m = where.rows;
  shape.n = lora.rank;
  shape.k = where.width;
  shape.a_row_stride = dy.size(1);
  shape.ldb = shape.ldc = lora.rank;
  kernels::gemm(shape, row_data(dy, where.first) + where.offset, lora.b.data(),
                g.data_ptr<float>());
  return g.mul_(lora.scale);
}

// out [rows, in] = or += g A.
void low_rank_to_input(const LoraWeights& lora, const Tensor& g, bool is_rounded,
                       int64_t in_features, Sum sum, float* out) {
  if (!is_rounded) return expand(g, lora.a.data(), in_features, in_features, sum, out);
  if (sum == Sum::kReplace) std::fill_n(out, g.size(0) * in_features, 0.0f);
  kernels::low_rank_expand(g.data_ptr<float>(), g.size(0), lora.rank, lora.a.data(), in_features,
                           out, in_features);
}

// out [num_factors, width] += factors [rows, num_factors]^T * values [rows, width], both with the
// row strides given.
struct OuterProduct {
  const float* factors;
  int64_t factor_stride;
  int64_t num_factors;
  const float* values;
  int64_t value_stride;
  int64_t width;
  int64_t rows;
};
void add_outer_product(const OuterProduct& product, float* out) {
  kernels::GemmShape shape;
  shape.m = product.num_factors;
  shape.n = product.width;
  shape.k = product.rows;
  shape.a_row_stride = 1;
  shape.a_column_stride = product.factor_stride;
  shape.ldb = product.value_stride;
  shape.ldc = product.width;
  shape.accumulate = true;
  kernels::gemm(shape, product.factors, product.values, out);
}

// dA += g^T x,  dB += scale * dy^T (A x)  for the x that A saw.
void add_pair_gradients(const LoraWeights& lora, const AdapterRows& x, const Tensor& g,
                        const Tensor& dy, const SavedActivation* rounded_dy, const Columns& where,
                        Workspace& workspace, LoraGradients::Pair& gradient) {
  const int64_t in_features = static_cast<int64_t>(lora.a.size()) / lora.rank;
  const Tensor low_rank = project(lora, x, where.rows, in_features, workspace);
  Tensor db = workspace.empty(lora.rank, where.width);  // dB^T / scale
  db.zero_();
  if (x.rounds()) {
    kernels::low_rank_outer(g.data_ptr<float>(), lora.rank, x.rounded, gradient.a.data());
    kernels::low_rank_outer(low_rank.data_ptr<float>(), lora.rank,
                            rounded_columns(*rounded_dy, dy.size(1), where), db.data_ptr<float>());
  } else {
    add_outer_product({g.data_ptr<float>(), lora.rank, lora.rank, x.floats.data_ptr<float>(),
                       in_features, in_features, where.rows},
                      gradient.a.data());
    add_outer_product(
        {low_rank.data_ptr<float>(), lora.rank, lora.rank, row_data(dy, where.first) + where.offset,
         dy.size(1), where.width, where.rows},
        db.data_ptr<float>());
  }
  parallel_for(where.width, kColumnGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t r = 0; r < lora.rank; ++r) {
        gradient.b[static_cast<size_t>(i * lora.rank + r)] += lora.scale * row_data(db, r)[i];
      }
    }
  });
}

void add_column_sums(const Tensor& dy, const Columns& where, std::vector<float>& out) {
  parallel_for(where.width, kColumnGrain, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(static_cast<size_t>(end - begin));
    for (int64_t row = 0; row < where.rows; ++row) {
      const float* values = row_data(dy, where.first + row) + where.offset + begin;
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += double{values[i]};
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      out[static_cast<size_t>(begin) + i] += static_cast<float>(sums[i]);
    }
  });
}

}  // namespace

void Linear::replace_products(const Tensor& x, const AdapterSpan& span, Tensor& y) const {
  for (const Slice& slice : slices_) {
    const FullTensor* own = span.adapter->find_full(slice.weight);
    if (own == nullptr) continue;
    kernels::matmul(*own->packed, row_data(x, span.begin), span.num_rows(), in_features_,
                    mutable_row_data(y, span.begin) + slice.offset, out_features_);
  }
}

std::vector<float> Linear::own_bias(const AdapterSpan& span) const {
  std::vector<float> bias;
  for (const Slice& slice : slices_) {
    const FullTensor* own = span.adapter->find_full(slice.bias);
    if (own == nullptr) continue;
    if (bias.empty()) bias = bias_;
    std::copy(own->values.begin(), own->values.end(), bias.begin() + slice.offset);
  }
  return bias;
}

void Linear::add_biases(const std::vector<AdapterSpan>& spans, Tensor& y) const {
  if (bias_.empty()) return;
  const auto add = [&](const std::vector<float>& bias, int64_t first, int64_t last) {
    parallel_for(last - first, kRowGrain, [&](int64_t begin, int64_t end) {
      kernels::add_bias(mutable_row_data(y, first + begin), bias.data(), end - begin,
                        out_features_);
    });
  };
  int64_t done = 0;
  for (const AdapterSpan& span : spans) {
    const std::vector<float> own = own_bias(span);
    if (own.empty()) continue;
    add(bias_, done, span.begin);
    add(own, span.begin, span.end);
    done = span.end;
  }
  add(bias_, done, y.size(0));
}

std::optional<std::vector<kernels::LowRankUpdate>> Linear::updates_beside(
    const std::vector<AdapterSpan>& spans, const Workspace& workspace) const {
  if (spans.empty() || at::GradMode::is_enabled() ||
      workspace.activation_bits() != kernels::ActivationBits::k16) {
    return std::nullopt;
  }
  std::vector<kernels::LowRankUpdate> updates;
  updates.reserve(spans.size() * slices_.size());
  for (const AdapterSpan& span : spans) {
    if (span.trains()) return std::nullopt;
    const LinearUpdates& own =
        span.adapter->updates_at(number_, [&] { return make_updates(*span.adapter); });
    if (!own.is_beside) return std::nullopt;
    for (kernels::LowRankUpdate update : own.updates) {
      update.row_begin = span.begin;
      update.row_end = span.end;
      updates.push_back(update);
    }
  }
  return updates;
}

LinearUpdates Linear::make_updates(const LoraAdapter& adapter) const {
  LinearUpdates made;
  made.pairs.reserve(slices_.size());  // the updates point into it
  size_t target = 0;
  for (const Slice& slice : slices_) {
    while (target + 1 < blocks_.size() && blocks_[target + 1].offset <= slice.offset) ++target;
    const Block& block = blocks_[target];
    const kernels::LowRankForm form = kernels::low_rank_form(*block.weight);
    if (block.int8 != nullptr || form.terms == 0) return {};
    if (adapter.find_full(slice.weight) != nullptr) return {};
    const LoraWeights* lora = adapter.find(slice.path);
    if (lora == nullptr) continue;
    if (lora->start != nullptr) return {};
    made.pairs.push_back(lora->beside(form));
    made.updates.push_back({&made.pairs.back(), target, slice.offset - block.offset, 0, 0});
  }
  made.is_beside = true;
  return made;
}

void Linear::add_adapter(const Operand& x, const AdapterSpan& span, Tensor& y,
                         Workspace& workspace) const {
  for (const Slice& slice : slices_) {
    const LoraWeights* lora = span.adapter->find(slice.path);
    if (lora == nullptr) continue;
    const Columns where{span.begin, span.num_rows(), slice.offset, slice.width};
    const AdapterRows rows =
        dropped_rows(x.floats, x.rounded, span, in_features_, slice.path, workspace);
    add_update(*lora, rows, in_features_, where, y, workspace);
    if (lora->start == nullptr) continue;
    add_update(*lora->start, plain_rows(x.floats, x.rounded, span, in_features_), in_features_,
               where, y, workspace);
  }
}

bool Linear::rounds(const Workspace& workspace) const {
  const auto is_even = [](const Slice& slice) {
    return slice.offset % 2 == 0 && slice.width % 2 == 0;
  };
  return workspace.activation_bits() == kernels::ActivationBits::k8 &&
         workspace.saved_precision() == SavedPrecision::kBFloat16 &&
         kernels::multiplies_bfloat16() && in_features_ % 2 == 0 &&
         std::all_of(slices_.begin(), slices_.end(), is_even);
}

bool Linear::needs_floats(const AdapterSpan& span) const {
  return drops(span) || std::any_of(slices_.begin(), slices_.end(), [&](const Slice& slice) {
           return span.adapter->find_full(slice.weight) != nullptr;
         });
}

bool Linear::trains(const AdapterSpan& span) const {
  return span.trains() && std::any_of(slices_.begin(), slices_.end(), [&](const Slice& slice) {
           return span.adapter->find(slice.path) != nullptr ||
                  span.adapter->find_full(slice.weight) != nullptr ||
                  span.adapter->find_full(slice.bias) != nullptr;
         });
}

Tensor Linear::without_replaced(const Tensor& dy, const std::vector<AdapterSpan>& spans,
                                Workspace& workspace) const {
  Tensor kept = dy;
  for (const AdapterSpan& span : spans) {
    for (const Slice& slice : slices_) {
      if (span.adapter->find_full(slice.weight) == nullptr) continue;
      if (kept.is_same(dy)) {
        kept = workspace.empty(dy.size(0), dy.size(1)).detach();
        kept.copy_(dy);
      }
      kept.narrow(0, span.begin, span.num_rows()).narrow(1, slice.offset, slice.width).zero_();
    }
  }
  return kept;
}

Tensor Linear::base_input_gradient(const Tensor& dy, const kernels::RoundedCopy& copy,
                                   Workspace& workspace) const {
  Tensor dx = workspace.empty(dy.size(0), in_features_);
  for (const Block& block : blocks_) {
    const bool is_first = &block == &blocks_.front();
    Tensor part = is_first ? dx : workspace.empty(dy.size(0), in_features_);
    kernels::matmul_transposed(
        *block.weight, dy.data_ptr<float>() + block.offset, dy.size(0), out_features_,
        part.data_ptr<float>(), in_features_, workspace.activation_bits(),
        {copy.rows == nullptr ? nullptr : copy.rows + block.offset, copy.stride});
    if (!is_first) {
      kernels::add(dx.data_ptr<float>(), part.data_ptr<float>(), dx.numel(), dx.data_ptr<float>());
    }
  }
  return dx;
}

Tensor Linear::input_gradient(const Tensor& dy, const std::vector<AdapterSpan>& spans,
                              SavedActivation* rounded, Workspace& workspace) const {
  const Tensor kept = without_replaced(dy, spans, workspace);
  kernels::RoundedCopy copy;
  if (rounded != nullptr && kept.is_same(dy)) {
    *rounded = SavedActivation::room_for(dy, workspace);
    copy = {rounded->mutable_bfloat16_rows(), out_features_};
  }
  Tensor dx = base_input_gradient(kept, copy, workspace);
  for (const AdapterSpan& span : spans) {
    for (const Slice& slice : slices_) {
      const FullTensor* own = span.adapter->find_full(slice.weight);
      if (own == nullptr) continue;
      Tensor part = workspace.empty(span.num_rows(), in_features_);
      kernels::matmul_transposed(*own->packed, row_data(dy, span.begin) + slice.offset,
                                 span.num_rows(), out_features_, part.data_ptr<float>(),
                                 in_features_);
      float* out = mutable_row_data(dx, span.begin);
      kernels::add(out, part.data_ptr<float>(), part.numel(), out);
    }
  }
  return dx;
}

void Linear::backward_full(const Tensor& x, const Tensor& dy, const AdapterSpan& span,
                           const Slice& slice) const {
  if (!span.trains()) return;
  if (span.adapter->find_full(slice.weight) != nullptr) {
    add_outer_product({row_data(dy, span.begin) + slice.offset, out_features_, slice.width,
                       row_data(x, span.begin), in_features_, in_features_, span.num_rows()},
                      span.gradients->full_at(slice.weight).data());
  }
  if (span.adapter->find_full(slice.bias) != nullptr) {
    add_column_sums(dy, {span.begin, span.num_rows(), slice.offset, slice.width},
                    span.gradients->full_at(slice.bias));
  }
}

// y = s B (A x):  with g = s B^T dy,  dA = g^T x,  dB = s dy^T (A x),  dx = g A.
void Linear::backward_pair(const Operand& x, const Operand& dy, const AdapterSpan& span,
                           const Slice& slice, Tensor& dx, Workspace& workspace) const {
  const LoraWeights& lora = *span.adapter->find(slice.path);
  const bool is_rounded = dy.rounded != nullptr;
  const Columns where{span.begin, span.num_rows(), slice.offset, slice.width};
  const Tensor g = low_rank_gradient(lora, dy.floats, dy.rounded, where, workspace);
  if (span.trains()) {
    const AdapterRows rows =
        dropped_rows(x.floats, x.rounded, span, in_features_, slice.path, workspace);
    add_pair_gradients(lora, rows, g, dy.floats, dy.rounded, where, workspace,
                       span.gradients->at(slice.path));
  }
  if (!dx.defined()) return;
  float* out = mutable_row_data(dx, span.begin);
  if (drops(span)) {
    Tensor part = workspace.empty(where.rows, in_features_);
    low_rank_to_input(lora, g, is_rounded, in_features_, Sum::kReplace, part.data_ptr<float>());
    span.gradients->drop(slice.path, where.rows, in_features_, part.data_ptr<float>());
    kernels::add(out, part.data_ptr<float>(), part.numel(), out);
  } else {
    low_rank_to_input(lora, g, is_rounded, in_features_, Sum::kAdd, out);
  }
  if (lora.start == nullptr) return;
  low_rank_to_input(*lora.start,
                    low_rank_gradient(*lora.start, dy.floats, dy.rounded, where, workspace),
                    is_rounded, in_features_, Sum::kAdd, out);
}

void Linear::backward_adapter(const Operand& x, const Operand& dy, const AdapterSpan& span,
                              Tensor& dx, Workspace& workspace) const {
  for (const Slice& slice : slices_) {
    backward_full(x.floats, dy.floats, span, slice);
    if (span.adapter->find(slice.path) == nullptr) continue;
    backward_pair(x, dy, span, slice, dx, workspace);
  }
}

}  // namespace quarry::nn
