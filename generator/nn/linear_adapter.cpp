// What the adapters of a step add to a Linear, forward and backward.
#include <algorithm>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/gemm.h"
#include "generator/nn/linear.h"

namespace quarry::nn {
namespace {

constexpr int64_t kRowGrain = 64;
constexpr int64_t kColumnGrain = 256;

// Rows of x that an adapter sees, after dropout when it is trained with one.
Tensor dropped_rows(const Tensor& x, const AdapterSpan& span, const std::string& path,
                    Workspace& workspace) {
  const Tensor rows = x.detach().narrow(0, span.begin, span.num_rows());
  if (!span.trains() || span.gradients->dropout() == 0.0f) return rows;
  Tensor dropped = workspace.empty(rows.size(0), rows.size(1)).detach();
  dropped.copy_(rows);
  span.gradients->drop(path, rows.size(0), rows.size(1), dropped.data_ptr<float>());
  return dropped;
}

// Columns [offset, offset + width) of `rows` rows from `first` on.
struct Columns {
  int64_t first;
  int64_t rows;
  int64_t offset;
  int64_t width;
};

// y += scale * B (A x), for x [rows, in].
void add_update(const LoraWeights& lora, const Tensor& x, const Columns& where, Tensor& y,
                Workspace& workspace) {
  Tensor low_rank = workspace.empty(where.rows, lora.rank);
  kernels::matmul(*lora.packed_a, x.data_ptr<float>(), where.rows, x.size(1),
                  low_rank.data_ptr<float>(), lora.rank);
  kernels::GemmShape shape;
  shape.m = where.rows;
  shape.n = where.width;
  shape.k = lora.rank;
  shape.a_row_stride = lora.rank;
  shape.ldb = where.width;
  shape.ldc = y.size(1);
  shape.accumulate = true;
  kernels::gemm(shape, low_rank.data_ptr<float>(), lora.scaled_b.data(),
                mutable_row_data(y, where.first) + where.offset);
}

// g = scale * B^T dy  [rows, rank].
Tensor low_rank_gradient(const LoraWeights& lora, const Tensor& dy, const Columns& where,
                         Workspace& workspace) {
  Tensor g = workspace.empty(where.rows, lora.rank);
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
enum class Sum { kReplace, kAdd };
void low_rank_to_input(const LoraWeights& lora, const Tensor& g, int64_t in_features, Sum sum,
                       float* out) {
  kernels::GemmShape shape;
  shape.m = g.size(0);
  shape.n = in_features;
  shape.k = lora.rank;
  shape.a_row_stride = lora.rank;
  shape.ldb = shape.ldc = in_features;
  shape.accumulate = sum == Sum::kAdd;
  kernels::gemm(shape, g.data_ptr<float>(), lora.a.data(), out);
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
void add_pair_gradients(const LoraWeights& lora, const Tensor& x, const Tensor& g, const Tensor& dy,
                        const Columns& where, Workspace& workspace, LoraGradients::Pair& gradient) {
  const int64_t in_features = x.size(1);
  add_outer_product({g.data_ptr<float>(), lora.rank, lora.rank, x.data_ptr<float>(), in_features,
                     in_features, where.rows},
                    gradient.a.data());
  Tensor low_rank = workspace.empty(where.rows, lora.rank);
  kernels::matmul(*lora.packed_a, x.data_ptr<float>(), where.rows, in_features,
                  low_rank.data_ptr<float>(), lora.rank);
  Tensor db = workspace.empty(lora.rank, where.width);  // dB^T / scale
  db.zero_();
  add_outer_product({low_rank.data_ptr<float>(), lora.rank, lora.rank,
                     row_data(dy, where.first) + where.offset, dy.size(1), where.width, where.rows},
                    db.data_ptr<float>());
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

void Linear::add_adapter(const Tensor& x, const AdapterSpan& span, Tensor& y,
                         Workspace& workspace) const {
  for (const Slice& slice : slices_) {
    const LoraWeights* lora = span.adapter->find(slice.path);
    if (lora == nullptr) continue;
    const Columns where{span.begin, span.num_rows(), slice.offset, slice.width};
    add_update(*lora, dropped_rows(x, span, slice.path, workspace), where, y, workspace);
    if (lora->start == nullptr) continue;
    const Tensor rows = x.detach().narrow(0, span.begin, span.num_rows());
    add_update(*lora->start, rows, where, y, workspace);
  }
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

Tensor Linear::base_input_gradient(const Tensor& dy, Workspace& workspace) const {
  Tensor dx = workspace.empty(dy.size(0), in_features_);
  for (const Block& block : blocks_) {
    const bool is_first = &block == &blocks_.front();
    Tensor part = is_first ? dx : workspace.empty(dy.size(0), in_features_);
    kernels::matmul_transposed(*block.weight, dy.data_ptr<float>() + block.offset, dy.size(0),
                               out_features_, part.data_ptr<float>(), in_features_,
                               workspace.activation_bits());
    if (!is_first) {
      kernels::add(dx.data_ptr<float>(), part.data_ptr<float>(), dx.numel(), dx.data_ptr<float>());
    }
  }
  return dx;
}

Tensor Linear::input_gradient(const Tensor& dy, const std::vector<AdapterSpan>& spans,
                              Workspace& workspace) const {
  Tensor dx = base_input_gradient(without_replaced(dy, spans, workspace), workspace);
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
void Linear::backward_pair(const Tensor& x, const Tensor& dy, const AdapterSpan& span,
                           const Slice& slice, Tensor& dx, Workspace& workspace) const {
  const LoraWeights& lora = *span.adapter->find(slice.path);
  const Columns where{span.begin, span.num_rows(), slice.offset, slice.width};
  const Tensor g = low_rank_gradient(lora, dy, where, workspace);
  if (span.trains()) {
    add_pair_gradients(lora, dropped_rows(x, span, slice.path, workspace), g, dy, where, workspace,
                       span.gradients->at(slice.path));
  }
  if (!dx.defined()) return;
  float* out = mutable_row_data(dx, span.begin);
  if (span.trains() && span.gradients->dropout() > 0.0f) {
    Tensor part = workspace.empty(where.rows, in_features_);
    low_rank_to_input(lora, g, in_features_, Sum::kReplace, part.data_ptr<float>());
    span.gradients->drop(slice.path, where.rows, in_features_, part.data_ptr<float>());
    kernels::add(out, part.data_ptr<float>(), part.numel(), out);
  } else {
    low_rank_to_input(lora, g, in_features_, Sum::kAdd, out);
  }
  if (lora.start == nullptr) return;
  low_rank_to_input(*lora.start, low_rank_gradient(*lora.start, dy, where, workspace), in_features_,
                    Sum::kAdd, out);
}

void Linear::backward_adapter(const Tensor& x, const Tensor& dy, const AdapterSpan& span,
                              Tensor& dx, Workspace& workspace) const {
  for (const Slice& slice : slices_) {
    backward_full(x, dy, span, slice);
    if (span.adapter->find(slice.path) == nullptr) continue;
    backward_pair(x, dy, span, slice, dx, workspace);
  }
}

}  // namespace quarry::nn
