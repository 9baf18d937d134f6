#pragma once

#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/workspace.h"

namespace quarry::nn {

// Negative log-likelihood in nats of each target under softmax(hidden * head^T).
//   hidden [R, E]: the states of `rows`, which ascend and hold every target's row; head [V, E].
// `hidden_gradient` [R, E], unless null, is overwritten by the gradient of sum(weight * loss) with
// respect to hidden. Logits exist for a few rows at a time; the head is frozen.
std::vector<float> cross_entropy(const Tensor& hidden, const kernels::PackedMatrix& head,
                                 const std::vector<int64_t>& rows,
                                 const std::vector<TokenTree::Target>& targets,
                                 Tensor* hidden_gradient);

}  // namespace quarry::nn
