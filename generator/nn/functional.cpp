#include "generator/nn/functional.h"

#include <cstring>
#include <vector>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

// Rows that are worth a thread of their own.
constexpr int64_t kRowGrain = 32;

}  // namespace

Tensor add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float epsilon, Workspace& workspace) {
  QUARRY_DCHECK(residual.numel() == x.numel());
  Tensor out = workspace.empty(x.size(0), x.size(1));
  const bool learns = needs_gradient(x) || needs_gradient(residual);
  Tensor sum = learns ? workspace.empty(x.size(0), x.size(1)) : out;
  parallel_for(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = mutable_row_data(sum, row);
      kernels::add(row_data(x, row), row_data(residual, row), x.size(1), y);
      kernels::layer_norm(y, weight.data_ptr<float>(), bias.data_ptr<float>(), epsilon, 1,
                          x.size(1), mutable_row_data(out, row));
    }
  });
  if (!learns) return out;
  const SavedActivation saved(sum, workspace);
  return record(out, {x, residual}, [saved, weight, epsilon, &workspace](const Tensor& gradient) {
    const Tensor input = saved.restore(workspace);
    Tensor dx = workspace.empty(input.size(0), input.size(1));
    kernels::layer_norm_backward(input.data_ptr<float>(), weight.data_ptr<float>(), epsilon,
                                 gradient.data_ptr<float>(), input.size(0), input.size(1),
                                 dx.data_ptr<float>());
    return std::vector<Tensor>{dx, dx};
  });
}

Tensor add(const Tensor& a, const Tensor& b, Workspace& workspace) {
  QUARRY_DCHECK(a.numel() == b.numel());
  Tensor out = workspace.empty(a.size(0), a.size(1));
  parallel_for(a.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    kernels::add(row_data(a, begin), row_data(b, begin), (end - begin) * a.size(1),
                 mutable_row_data(out, begin));
  });
  if (!needs_gradient(a) && !needs_gradient(b)) return out;
  return record(out, {a, b}, [](const Tensor& gradient) {
    return std::vector<Tensor>{gradient, gradient};
  });
}

Tensor add_row(const Tensor& x, const Tensor& row, Workspace& workspace) {
  QUARRY_DCHECK(row.numel() == x.size(1));
  Tensor out = workspace.empty(x.size(0), x.size(1));
  for (int64_t i = 0; i < x.size(0); ++i) {
    kernels::add(row_data(x, i), row.data_ptr<float>(), x.size(1), mutable_row_data(out, i));
  }
  return out;
}

Tensor scale(const Tensor& x, float factor, Workspace& workspace) {
  const auto multiply = [factor, &workspace](const Tensor& from) {
    Tensor to = workspace.empty(from.size(0), from.size(1));
    parallel_for(from.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      const float* values = row_data(from, begin);
      float* out = mutable_row_data(to, begin);
      for (int64_t i = 0; i < (end - begin) * from.size(1); ++i) out[i] = factor * values[i];
    });
    return to;
  };
  Tensor out = multiply(x);
  if (!needs_gradient(x)) return out;
  return record(out, {x}, [multiply](const Tensor& gradient) {
    return std::vector<Tensor>{multiply(gradient)};
  });
}

namespace {

enum class Regroup { kSplit, kJoin };

Tensor regroup_heads(const Tensor& x, int64_t num_heads, int64_t head_dim, Regroup direction,
                     Workspace& workspace) {
  Tensor out = workspace.empty(x.size(0), x.size(1));
  parallel_for(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t piece = 0; piece < 3 * num_heads; ++piece) {
        const int64_t joined = piece * head_dim;
        const int64_t parted = (piece % 3 * num_heads + piece / 3) * head_dim;
        const bool splits = direction == Regroup::kSplit;
        std::memcpy(mutable_row_data(out, row) + (splits ? parted : joined),
                    row_data(x, row) + (splits ? joined : parted),
                    static_cast<size_t>(head_dim) * sizeof(float));
      }
    }
  });
  return out;
}

}  // namespace

Tensor split_heads(const Tensor& qkv, int64_t num_heads, int64_t head_dim, Workspace& workspace) {
  QUARRY_DCHECK(qkv.size(1) == 3 * num_heads * head_dim);
  Tensor out = regroup_heads(qkv, num_heads, head_dim, Regroup::kSplit, workspace);
  if (!needs_gradient(qkv)) return out;
  return record(out, {qkv}, [num_heads, head_dim, &workspace](const Tensor& gradient) {
    return std::vector<Tensor>{
        regroup_heads(gradient, num_heads, head_dim, Regroup::kJoin, workspace)};
  });
}

Tensor select_rows(const Tensor& x, const std::vector<int64_t>& rows, Workspace& workspace) {
  Tensor out = workspace.empty(static_cast<int64_t>(rows.size()), x.size(1));
  for (size_t i = 0; i < rows.size(); ++i) {
    QUARRY_DCHECK(rows[i] >= 0 && rows[i] < x.size(0));
    std::memcpy(mutable_row_data(out, static_cast<int64_t>(i)), row_data(x, rows[i]),
                static_cast<size_t>(x.size(1)) * sizeof(float));
  }
  if (!needs_gradient(x)) return out;
  const int64_t num_rows = x.size(0);
  return record(out, {x}, [rows, num_rows, &workspace](const Tensor& gradient) {
    Tensor dx = workspace.empty(num_rows, gradient.size(1));
    dx.zero_();
    for (size_t i = 0; i < rows.size(); ++i) {
      kernels::add_scaled(row_data(gradient, static_cast<int64_t>(i)), 1.0f, gradient.size(1),
                          mutable_row_data(dx, rows[i]));
    }
    return std::vector<Tensor>{dx};
  });
}

}  // namespace quarry::nn
