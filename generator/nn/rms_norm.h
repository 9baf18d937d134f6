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
  // `path`: Hugging Face module path. weight [width], float32.
  RmsNorm(const std::string& path, Tensor weight, float epsilon);

  // x [T, width] -> [T, width]. Spans are inside [0, T). Differentiable with respect to x; the
  // gradient of an adapter's own weight is added to span.gradients when the backward pass comes by.
  Tensor forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                 Workspace& workspace) const;
  const std::string& weight_name() const { return weight_name_; }
  std::vector<float> weight_values() const;

 private:
  // Rows that share a weight.
  struct Part {
    int64_t begin;
    int64_t end;
    const float* weight;
    std::vector<float>* gradient;  // null: the weight is not trained
  };
  std::vector<Part> split(const std::vector<AdapterSpan>& spans, int64_t num_rows) const;
  void add_weight_gradient(const Tensor& x, const Tensor& dy, const Part& part) const;

  std::string weight_name_;
  Tensor weight_;
  float epsilon_;
};

}  // namespace quarry::nn
