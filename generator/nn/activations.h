#pragma once

#include "generator/nn/workspace.h"

namespace quarry::nn {

// Activation functions over float32 [T, width] tensors, computed by kernels/ but for tanh,
// which heads take of few rows. Inputs are not changed; each returns a tensor of the workspace.
// Differentiable (autograd.h).

// x * Phi(x).
Tensor gelu(const Tensor& x, Workspace& workspace);
// Its approximation with tanh.
Tensor gelu_tanh(const Tensor& x, Workspace& workspace);
Tensor relu(const Tensor& x, Workspace& workspace);
Tensor tanh(const Tensor& x, Workspace& workspace);
// gate_up [T, 2 F] holds gate in its first F columns  ->  silu(gate) * up  [T, F].
Tensor swiglu(const Tensor& gate_up, Workspace& workspace);
// The same with gelu_tanh.
Tensor geglu_tanh(const Tensor& gate_up, Workspace& workspace);

}  // namespace quarry::nn
