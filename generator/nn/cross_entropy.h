#pragma once

#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/workspace.h"

namespace quarry::nn {

// Where the gradients of sum(weight * loss) go; null: not asked for.
struct CrossEntropyGradients {
  Tensor* hidden = nullptr;            // [R, E], overwritten
  std::vector<float>* head = nullptr;  // [V, E], added to; needs hidden
};

// Negative log-likelihood in nats of each target under softmax(hidden * head^T + bias).
//   hidden [R, E]: the states of `rows`, which ascend and hold every target's row; head [V, E];
//   bias [V], or empty.
// Logits exist for a few rows at a time.
std::vector<float> cross_entropy(const Tensor& hidden, const kernels::PackedMatrix& head,
                                 const std::vector<float>& bias, const std::vector<int64_t>& rows,
                                 const std::vector<TokenTree::Target>& targets,
                                 const CrossEntropyGradients& gradients);

}  // namespace quarry::nn
