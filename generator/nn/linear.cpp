#include "generator/nn/linear.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/gemm.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

// Rows of neighbouring projections of one type, in their final order, one after the other.
std::vector<uint8_t> gather_rows(const std::vector<Projection>& projections, size_t first,
                                 size_t last, int64_t row_bytes) {
  std::vector<uint8_t> rows;
  for (size_t p = first; p < last; ++p) {
    const Projection& projection = projections[p];
    const int64_t num_rows = projection.weight->shape[0];
    const size_t start = rows.size();
    rows.resize(start + static_cast<size_t>(num_rows * row_bytes));
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t stored = projection.row_order.empty() ? row : projection.row_order[row];
      std::memcpy(rows.data() + start + row * row_bytes,
                  projection.weight->data + stored * row_bytes, static_cast<size_t>(row_bytes));
    }
  }
  return rows;
}

void read_bias(const Projection& projection, float* destination) {
  const int64_t width = projection.weight->shape[0];
  std::vector<float> stored(static_cast<size_t>(width));
  dequantize(projection.bias->type, projection.bias->data, stored.data(), width);
  for (int64_t row = 0; row < width; ++row) {
    destination[row] = stored[projection.row_order.empty() ? row : projection.row_order[row]];
  }
}

// Rows of x that an adapter sees, after dropout when it is trained with one.
Tensor dropped_rows(const Tensor& x, const AdapterSpan& span, const std::string& path,
                    Workspace& workspace) {
  const Tensor rows = x.detach().narrow(0, span.begin, span.end - span.begin);
  if (span.gradients == nullptr || span.gradients->dropout() == 0.0f) return rows;
  Tensor dropped = workspace.empty(rows.size(0), rows.size(1)).detach();
  dropped.copy_(rows);
  span.gradients->drop(path, rows.size(0), rows.size(1), dropped.data_ptr<float>());
  return dropped;
}

// out [rank, width] += factors [rows, rank]^T * rows [rows, width], row stride `stride`.
void add_outer_product(const Tensor& factors, const float* rows, int64_t stride, int64_t width,
                       float* out) {
  kernels::GemmShape shape;
  shape.m = factors.size(1);
  shape.n = width;
  shape.k = factors.size(0);
  shape.a_row_stride = 1;
  shape.a_column_stride = factors.size(1);
  shape.ldb = stride;
  shape.ldc = width;
  shape.accumulate = true;
  kernels::gemm(shape, factors.data_ptr<float>(), rows, out);
}

}  // namespace

Linear::Linear(const std::vector<Projection>& projections, kernels::Precision precision) {
  QUARRY_DCHECK(!projections.empty());
  in_features_ = projections.front().weight->shape[1];
  for (const Projection& projection : projections) {
    QUARRY_DCHECK(projection.weight->shape[1] == in_features_);
    slices_.push_back({projection.path, out_features_, projection.weight->shape[0]});
    out_features_ += projection.weight->shape[0];
  }
  for (size_t first = 0; first < projections.size();) {
    const WeightType type = projections[first].weight->type;
    size_t last = first + 1;
    while (last < projections.size() && projections[last].weight->type == type) ++last;
    const int64_t begin = slices_[first].offset;
    const int64_t end = last < slices_.size() ? slices_[last].offset : out_features_;
    const std::vector<uint8_t> rows =
        gather_rows(projections, first, last, weight_bytes(type, in_features_));
    blocks_.push_back(
        {kernels::pack_matrix(type, rows.data(), end - begin, in_features_, precision), begin});
    first = last;
  }
  for (size_t p = 0; p < projections.size(); ++p) {
    if (projections[p].bias == nullptr) continue;
    bias_.resize(static_cast<size_t>(out_features_), 0.0f);
    read_bias(projections[p], bias_.data() + slices_[p].offset);
  }
}

Tensor Linear::forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                       Workspace& workspace) const {
  const int64_t num_rows = x.size(0);
  QUARRY_DCHECK(x.size(1) == in_features_);
  Tensor y = workspace.empty(num_rows, out_features_);
  for (const Block& block : blocks_) {
    kernels::matmul(*block.weight, x.data_ptr<float>(), num_rows, in_features_,
                    y.data_ptr<float>() + block.offset, out_features_, workspace.activation_bits());
  }
  if (!bias_.empty()) {
    parallel_for(num_rows, 64, [&](int64_t begin, int64_t end) {
      kernels::add_bias(mutable_row_data(y, begin), bias_.data(), end - begin, out_features_);
    });
  }
  for (const AdapterSpan& span : spans) add_adapter(x, span, y, workspace);

  std::vector<AdapterSpan> trained;
  if (at::GradMode::is_enabled()) {
    std::copy_if(spans.begin(), spans.end(), std::back_inserter(trained),
                 [&](const AdapterSpan& span) { return trains(span); });
  }
  const bool needs_dx = needs_gradient(x);
  if (!needs_dx && trained.empty()) return y;
  // With nothing to train here the backward pass needs no x; adapters that are not trained still
  // shape dx.
  const SavedActivation saved = trained.empty() ? SavedActivation() : SavedActivation(x, workspace);
  return record(y, {x}, [this, saved, spans, trained, needs_dx, &workspace](const Tensor& dy) {
    Tensor dx = needs_dx ? input_gradient(dy, workspace) : Tensor();
    const Tensor input = trained.empty() ? Tensor() : saved.restore(workspace);
    for (const AdapterSpan& span : spans) backward_adapter(input, dy, span, dx, workspace);
    return std::vector<Tensor>{dx};
  });
}

Tensor Linear::forward(const Tensor& x, Workspace& workspace) const {
  return forward(x, {}, workspace);
}

void Linear::add_adapter(const Tensor& x, const AdapterSpan& span, Tensor& y,
                         Workspace& workspace) const {
  const int64_t num_rows = span.end - span.begin;
  for (const Slice& slice : slices_) {
    const LoraWeights* lora = span.adapter->find(slice.path);
    if (lora == nullptr) continue;
    Tensor low_rank = workspace.empty(num_rows, lora->rank);
    Tensor update = workspace.empty(num_rows, slice.width);
    const Tensor input = dropped_rows(x, span, slice.path, workspace);
    kernels::matmul(*lora->packed_a, input.data_ptr<float>(), num_rows, in_features_,
                    low_rank.data_ptr<float>(), lora->rank);
    kernels::matmul(*lora->packed_b, low_rank.data_ptr<float>(), num_rows, lora->rank,
                    update.data_ptr<float>(), slice.width);
    parallel_for(num_rows, 64, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* out = mutable_row_data(y, span.begin + row) + slice.offset;
        kernels::add(out, row_data(update, row), slice.width, out);
      }
    });
  }
}

bool Linear::trains(const AdapterSpan& span) const {
  return span.gradients != nullptr &&
         std::any_of(slices_.begin(), slices_.end(),
                     [&](const Slice& slice) { return span.adapter->find(slice.path) != nullptr; });
}

Tensor Linear::input_gradient(const Tensor& dy, Workspace& workspace) const {
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

// y = s B (A x):  with g = s B^T dy,  dA = g x^T,  dB = s dy (A x)^T,  dx = A^T g.
void Linear::backward_adapter(const Tensor& x, const Tensor& dy, const AdapterSpan& span,
                              Tensor& dx, Workspace& workspace) const {
  const int64_t rows = span.end - span.begin;
  for (const Slice& slice : slices_) {
    const LoraWeights* lora = span.adapter->find(slice.path);
    if (lora == nullptr) continue;
    const float* dy_rows = row_data(dy, span.begin) + slice.offset;
    Tensor g = workspace.empty(rows, lora->rank);
    kernels::GemmShape shape;
    shape.m = rows;
    shape.n = lora->rank;
    shape.k = slice.width;
    shape.a_row_stride = out_features_;
    shape.ldb = shape.ldc = lora->rank;
    kernels::gemm(shape, dy_rows, lora->b.data(), g.data_ptr<float>());
    g.mul_(lora->scale);
    if (span.gradients != nullptr) {
      const Tensor input = dropped_rows(x, span, slice.path, workspace);
      Tensor low_rank = workspace.empty(rows, lora->rank);
      kernels::matmul(*lora->packed_a, input.data_ptr<float>(), rows, in_features_,
                      low_rank.data_ptr<float>(), lora->rank);
      LoraGradients::Pair& gradient = span.gradients->at(slice.path);
      add_outer_product(g, input.data_ptr<float>(), in_features_, in_features_, gradient.a.data());
      Tensor db = workspace.empty(lora->rank, slice.width);  // dB^T / s
      db.zero_();
      add_outer_product(low_rank, dy_rows, out_features_, slice.width, db.data_ptr<float>());
      for (int64_t i = 0; i < slice.width; ++i) {
        for (int64_t r = 0; r < lora->rank; ++r) {
          gradient.b[static_cast<size_t>(i * lora->rank + r)] += lora->scale * row_data(db, r)[i];
        }
      }
    }
    if (!dx.defined()) continue;
    const bool drops = span.gradients != nullptr && span.gradients->dropout() > 0.0f;
    Tensor part = drops ? workspace.empty(rows, in_features_) : dx;
    float* target = drops ? part.data_ptr<float>() : mutable_row_data(dx, span.begin);
    shape.n = in_features_;
    shape.k = lora->rank;
    shape.a_row_stride = lora->rank;
    shape.ldb = shape.ldc = in_features_;
    shape.accumulate = !drops;
    kernels::gemm(shape, g.data_ptr<float>(), lora->a.data(), target);
    if (drops) {
      span.gradients->drop(slice.path, rows, in_features_, target);
      float* out = mutable_row_data(dx, span.begin);
      kernels::add(out, target, rows * in_features_, out);
    }
  }
}

}  // namespace quarry::nn
