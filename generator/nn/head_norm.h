#pragma once

#include <string>
#include <vector>

#include "generator/nn/attention.h"
#include "generator/nn/rms_norm.h"

namespace quarry::nn {

// RMSNorm of every head of the queries and of the keys (Henry et al. 2020, arXiv:2010.04245, with
// RMSNorm), before their positions are put in. Immutable.
class HeadNorm {
 public:
  // Weights [head_dim]; borrowed.
  HeadNorm(const RmsNorm& q, const RmsNorm& k) : q_(&q), k_(&k) {}
  const RmsNorm& q() const { return *q_; }
  const RmsNorm& k() const { return *k_; }

  // qkv [T, (H + 2 K) D] -> the same shape, values as they were. `qkv` is a fresh result that only
  // the caller holds: without gradients its memory is changed in place. Differentiable with respect
  // to qkv; the gradients of an adapter's own weights are added to span.gradients.
  Tensor forward(const Tensor& qkv, const AttentionHeads& heads,
                 const std::vector<AdapterSpan>& spans, Workspace& workspace) const;

 private:
  const RmsNorm* q_;
  const RmsNorm* k_;
};

}  // namespace quarry::nn
