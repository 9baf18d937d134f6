#pragma once

#include <string>
#include <vector>

#include "generator/nn/adapter_span.h"
#include "generator/nn/workspace.h"

namespace quarry::nn {

// RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) with the model's weight, or that of each
// row's adapter where it has its own. Immutable.
class RmsNorm {
 public:
  // `path`: Hugging Face module path. weight [width], float32; what counts is weight + offset.
  RmsNorm(const std::string& path, const Tensor& weight, float epsilon, float offset = 0.0f);

  // x [T, width] -> [T, width]. Spans are inside [0, T). Differentiable with respect to x; the
  // gradient of an adapter's own weight is added to span.gradients when the backward pass comes by.
  Tensor forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                 Workspace& workspace) const;
  const std::string& weight_name() const { return weight_name_; }
  // As stored, without the offset.
  std::vector<float> weight_values() const;
  // With it: what a row is multiplied with.
  std::vector<float> factors() const;
  float epsilon() const { return epsilon_; }

  // Rows that share a weight, in order, over all of [0, num_rows).
  struct Part {
    int64_t begin;
    int64_t end;
    Tensor weight;
    std::vector<float>* gradient;  // null: the weight is not trained
  };
  std::vector<Part> split(const std::vector<AdapterSpan>& spans, int64_t num_rows) const;

 private:
  Tensor own_weight(const FullTensor& own) const;
  void add_weight_gradient(const Tensor& x, const Tensor& dy, const Part& part) const;

  std::string weight_name_;
  Tensor stored_;
  Tensor weight_;  // stored_ + offset_
  float epsilon_;
  float offset_;
};

}  // namespace quarry::nn
