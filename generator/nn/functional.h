#pragma once

#include <cstdint>
#include <vector>

#include "generator/nn/workspace.h"

namespace quarry::nn {

// Row-wise functions over float32 [T, width] tensors, computed by kernels/elementwise. Inputs are
// not changed; each returns a tensor of the workspace. All but layer_norm and add_row, which are
// for inference, are differentiable with respect to their activations (autograd.h).

// weight, bias [width].
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                  Workspace& workspace);
// layer_norm(x + residual).
Tensor add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float epsilon, Workspace& workspace);
Tensor add(const Tensor& a, const Tensor& b, Workspace& workspace);
// x with row [width] added to each of its rows.
Tensor add_row(const Tensor& x, const Tensor& row, Workspace& workspace);
// gate_up [T, 2 F] holds gate in its first F columns  ->  silu(gate) * up  [T, F].
Tensor swiglu(const Tensor& gate_up, Workspace& workspace);
// x * factor
Tensor scale(const Tensor& x, float factor, Workspace& workspace);
// qkv [T, 3 H D] with query, key and value of one head after the other  ->  [T, 3 H D] with all
// queries, then all keys, then all values.
Tensor split_heads(const Tensor& qkv, int64_t num_heads, int64_t head_dim, Workspace& workspace);
// x [T, width] -> [rows.size(), width].
Tensor select_rows(const Tensor& x, const std::vector<int64_t>& rows, Workspace& workspace);

}  // namespace quarry::nn
