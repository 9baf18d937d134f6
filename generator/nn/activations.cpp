#include "generator/nn/activations.h"

#include <cmath>
#include <vector>

#include "data/core/parallel_for.h"
#include "generator/kernels/activations.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

// Rows that are worth a thread of their own.
constexpr int64_t kRowGrain = 32;

using Function = void (*)(const float* x, int64_t count, float* out);
using Gradient = void (*)(const float* x, const float* gradient, int64_t count, float* out);

Tensor apply(Function function, Gradient backward, const Tensor& x, Workspace& workspace) {
  const int64_t width = x.size(1);
  Tensor out = workspace.empty(x.size(0), width);
  parallel_for(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    function(row_data(x, begin), (end - begin) * width, mutable_row_data(out, begin));
  });
  if (!needs_gradient(x)) return out;
  const SavedActivation saved(x, workspace);
  return record(out, {x}, [saved, backward, width, &workspace](const Tensor& gradient) {
    const Tensor input = saved.restore(workspace);
    Tensor dx = workspace.empty(input.size(0), width);
    parallel_for(input.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      backward(row_data(input, begin), row_data(gradient, begin), (end - begin) * width,
               mutable_row_data(dx, begin));
    });
    return std::vector<Tensor>{dx};
  });
}

using GatedFunction = void (*)(const float* gate, const float* up, int64_t count, float* out);
using GatedGradient = void (*)(const float* gate, const float* up, const float* gradient,
                               int64_t count, float* gate_out, float* up_out);

Tensor apply_gated(GatedFunction function, GatedGradient backward, const Tensor& gate_up,
                   Workspace& workspace) {
  const int64_t width = gate_up.size(1) / 2;
  Tensor out = workspace.empty(gate_up.size(0), width);
  parallel_for(gate_up.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* gate = row_data(gate_up, row);
      function(gate, gate + width, width, mutable_row_data(out, row));
    }
  });
  if (!needs_gradient(gate_up)) return out;
  const SavedActivation saved(gate_up, workspace);
  return record(out, {gate_up}, [saved, backward, width, &workspace](const Tensor& gradient) {
    Tensor dx = workspace.empty(gradient.size(0), 2 * width);
    parallel_for(gradient.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      std::vector<float> buffer(static_cast<size_t>(2 * width));
      for (int64_t row = begin; row < end; ++row) {
        const float* gate = saved.row(row, buffer.data());
        float* target = mutable_row_data(dx, row);
        backward(gate, gate + width, row_data(gradient, row), width, target, target + width);
      }
    });
    return std::vector<Tensor>{dx};
  });
}

void run_tanh(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = std::tanh(x[i]);
}

void tanh_backward(const float* x, const float* gradient, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float y = std::tanh(x[i]);
    out[i] = gradient[i] * (1.0f - y * y);
  }
}

}  // namespace

Tensor gelu(const Tensor& x, Workspace& workspace) {
  return apply(kernels::gelu, kernels::gelu_backward, x, workspace);
}

Tensor gelu_tanh(const Tensor& x, Workspace& workspace) {
  return apply(kernels::gelu_tanh, kernels::gelu_tanh_backward, x, workspace);
}

Tensor relu(const Tensor& x, Workspace& workspace) {
  return apply(kernels::relu, kernels::relu_backward, x, workspace);
}

Tensor tanh(const Tensor& x, Workspace& workspace) {
  return apply(run_tanh, tanh_backward, x, workspace);
}

Tensor swiglu(const Tensor& gate_up, Workspace& workspace) {
  return apply_gated(kernels::silu_mul, kernels::silu_mul_backward, gate_up, workspace);
}

Tensor geglu_tanh(const Tensor& gate_up, Workspace& workspace) {
  return apply_gated(kernels::gelu_tanh_mul, kernels::gelu_tanh_mul_backward, gate_up, workspace);
}

}  // namespace quarry::nn
