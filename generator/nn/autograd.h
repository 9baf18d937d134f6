#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "generator/nn/workspace.h"

// How the functions of nn/ take part in LibTorch's autograd: each computes its result with our
// kernels and records one node whose backward is a kernel too.
namespace quarry::nn {

// Whether a gradient with respect to x is asked for.
inline bool needs_gradient(const Tensor& x) {
  return at::GradMode::is_enabled() && x.requires_grad();
}

// Gradients of the inputs, in order, given the gradient of the output; undefined where an input
// does not need one. Runs once, with gradients off, and is then destroyed with all that it holds.
using BackwardFunction = std::function<std::vector<Tensor>(const Tensor& gradient)>;

// `output` as the result of a function of `inputs`. `output` itself must be new and without
// history.
Tensor record(Tensor output, const std::vector<Tensor>& inputs, BackwardFunction backward);

// An activation kept for the backward pass, in the precision that the workspace says.
class SavedActivation {
 public:
  SavedActivation() = default;
  SavedActivation(const Tensor& x, Workspace& workspace);
  // Room for x rounded to bfloat16, to be filled through mutable_bfloat16_rows().
  static SavedActivation room_for(const Tensor& x, Workspace& workspace);
  // Float32, as it was saved.
  Tensor restore(Workspace& workspace) const;
  // Row `row` of it; `buffer` has room for one.
  const float* row(int64_t row, float* buffer) const;
  // As it was saved, or null where that is float32.
  const uint16_t* bfloat16_rows() const {
    return bits_.defined() ? static_cast<const uint16_t*>(bits_.data_ptr()) : nullptr;
  }
  uint16_t* mutable_bfloat16_rows() { return static_cast<uint16_t*>(bits_.data_ptr()); }

 private:
  Tensor rows_;  // float32, or
  Tensor bits_;  // the same rounded to bfloat16, [rows, width_], in memory of half as many floats
  int64_t width_ = 0;
};

// Runs the recorded backward functions, given the gradient of `output`.
void run_backward(const Tensor& output, const Tensor& gradient);

// Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): computes function(inputs) and
// keeps only the inputs; the backward pass computes it again.
using CheckpointedFunction = std::function<Tensor(const std::vector<Tensor>& inputs)>;
Tensor checkpoint(const CheckpointedFunction& function, const std::vector<Tensor>& inputs);

}  // namespace quarry::nn
