#pragma once

#include <cstdint>
#include <vector>

#include "generator/nn/workspace.h"

namespace quarry::nn {

// Row-wise functions over float32 [T, width] tensors, computed by kernels/elementwise. Inputs are
// not changed; each returns a tensor of the workspace. All but add_row, which is for
// inference, are differentiable with respect to their activations (autograd.h).

// LayerNorm of x + residual. weight, bias [width].
Tensor add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float epsilon, Workspace& workspace);
Tensor add(const Tensor& a, const Tensor& b, Workspace& workspace);
// x with row [width] added to each of its rows.
Tensor add_row(const Tensor& x, const Tensor& row, Workspace& workspace);
// x * factor
Tensor scale(const Tensor& x, float factor, Workspace& workspace);
// qkv [T, 3 H D] with query, key and value of one head after the other  ->  [T, 3 H D] with all
// queries, then all keys, then all values.
Tensor split_heads(const Tensor& qkv, int64_t num_heads, int64_t head_dim, Workspace& workspace);
// x [T, width] -> [rows.size(), width].
Tensor select_rows(const Tensor& x, const std::vector<int64_t>& rows, Workspace& workspace);

}  // namespace quarry::nn
