#pragma once

#include <string>
#include <vector>

#include "generator/nn/adapter_span.h"
#include "generator/nn/workspace.h"

namespace quarry::nn {

// LayerNorm (Ba et al. 2016, arXiv:1607.06450) with the model's weight and bias, or those of each
// row's adapter where it has its own. Immutable.
class LayerNorm {
 public:
  // `path`: Hugging Face module path. weight, bias [width], float32.
  LayerNorm(const std::string& path, Tensor weight, Tensor bias, float epsilon);

  // x [T, width] -> [T, width]. Spans are inside [0, T). Differentiable with respect to x;
  // gradients of an adapter's own weight and bias are added to span.gradients when the backward
  // pass comes by.
  Tensor forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                 Workspace& workspace) const;
  const std::string& weight_name() const { return weight_name_; }
  const std::string& bias_name() const { return bias_name_; }
  std::vector<float> weight_values() const;
  std::vector<float> bias_values() const;

 private:
  // Rows that share a weight and a bias.
  struct Part {
    int64_t begin;
    int64_t end;
    const float* weight;
    const float* bias;
    std::vector<float>* weight_gradient;  // null: not trained
    std::vector<float>* bias_gradient;    // null: not trained
  };
  std::vector<Part> split(const std::vector<AdapterSpan>& spans, int64_t num_rows) const;
  void add_gradients(const Tensor& x, const Tensor& dy, const Part& part) const;

  std::string weight_name_;
  std::string bias_name_;
  Tensor weight_;
  Tensor bias_;
  float epsilon_;
};

}  // namespace quarry::nn
