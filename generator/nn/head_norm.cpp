#include "generator/nn/head_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

constexpr int64_t kRowGrain = 32;

// The heads [offset, offset + num_heads * D) of rows that share a weight.
struct HeadRows {
  RmsNorm::Part part;
  int64_t offset;
  int64_t num_heads;
  float epsilon;
};

void copy_columns(const Tensor& from, int64_t offset, Tensor& to) {
  const auto bytes = static_cast<size_t>(from.size(1) - offset) * sizeof(float);
  parallel_for(from.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(mutable_row_data(to, row) + offset, row_data(from, row) + offset, bytes);
    }
  });
}

// dweight[d] += sum over rows and heads of dy[d] x[d] / sqrt(mean(x^2) + epsilon).
void add_weight_gradient(const Tensor& x, const Tensor& dy, const HeadRows& rows, int64_t dim) {
  std::vector<double> sums(static_cast<size_t>(dim), 0.0);
  for (int64_t row = rows.part.begin; row < rows.part.end; ++row) {
    for (int64_t head = 0; head < rows.num_heads; ++head) {
      const float* values = row_data(x, row) + rows.offset + head * dim;
      const float* gradient = row_data(dy, row) + rows.offset + head * dim;
      double square = 0.0;
      for (int64_t d = 0; d < dim; ++d) square += double{values[d]} * values[d];
      const double inverse =
          1.0 / std::sqrt(square / static_cast<double>(dim) + double{rows.epsilon});
      for (int64_t d = 0; d < dim; ++d) {
        sums[static_cast<size_t>(d)] += double{gradient[d]} * values[d] * inverse;
      }
    }
  }
  for (size_t d = 0; d < sums.size(); ++d) {
    (*rows.part.gradient)[d] += static_cast<float>(sums[d]);
  }
}

}  // namespace

Tensor HeadNorm::forward(const Tensor& qkv, const AttentionHeads& heads,
                         const std::vector<AdapterSpan>& spans, Workspace& workspace) const {
  const int64_t dim = heads.head_dim;
  const int64_t q_width = heads.num_heads * dim;
  const int64_t v_offset = q_width + heads.num_kv_heads * dim;
  std::vector<HeadRows> all;
  for (const RmsNorm::Part& part : q_->split(spans, qkv.size(0))) {
    all.push_back({part, 0, heads.num_heads, q_->epsilon()});
  }
  for (const RmsNorm::Part& part : k_->split(spans, qkv.size(0))) {
    all.push_back({part, q_width, heads.num_kv_heads, k_->epsilon()});
  }
  const bool needs_dx = needs_gradient(qkv);
  const bool trained =
      at::GradMode::is_enabled() && std::any_of(all.begin(), all.end(), [](const HeadRows& rows) {
        return rows.part.gradient != nullptr;
      });
  const bool records = needs_dx || trained;
  Tensor out = records ? workspace.empty(qkv.size(0), qkv.size(1)) : qkv;
  if (records) copy_columns(qkv, v_offset, out);
  for (const HeadRows& rows : all) {
    QUARRY_DCHECK(rows.part.weight.numel() == dim);
    parallel_for(rows.part.end - rows.part.begin, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = rows.part.begin + begin; row < rows.part.begin + end; ++row) {
        kernels::rms_norm(row_data(qkv, row) + rows.offset, rows.part.weight.data_ptr<float>(),
                          rows.epsilon, rows.num_heads, dim,
                          mutable_row_data(out, row) + rows.offset);
      }
    });
  }
  if (!records) return out;
  const SavedActivation saved(qkv, workspace);
  return record(out, {qkv}, [all, saved, dim, v_offset, needs_dx, &workspace](const Tensor& dy) {
    const Tensor input = saved.restore(workspace);
    Tensor dx = needs_dx ? workspace.empty(input.size(0), input.size(1)) : Tensor();
    if (needs_dx) copy_columns(dy, v_offset, dx);
    for (const HeadRows& rows : all) {
      if (rows.part.gradient != nullptr) add_weight_gradient(input, dy, rows, dim);
      if (!needs_dx) continue;
      parallel_for(rows.part.end - rows.part.begin, kRowGrain, [&](int64_t begin, int64_t end) {
        for (int64_t row = rows.part.begin + begin; row < rows.part.begin + end; ++row) {
          kernels::rms_norm_backward(row_data(input, row) + rows.offset,
                                     rows.part.weight.data_ptr<float>(), rows.epsilon,
                                     row_data(dy, row) + rows.offset, rows.num_heads, dim,
                                     mutable_row_data(dx, row) + rows.offset);
        }
      });
    }
    return std::vector<Tensor>{dx};
  });
}

}  // namespace quarry::nn
