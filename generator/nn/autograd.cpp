#include "generator/nn/autograd.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <utility>

#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_backward.h"

namespace quarry::nn {
namespace {

constexpr int64_t kRowGrain = 32;

class FunctionNode final : public torch::autograd::Node {
 public:
  FunctionNode(BackwardFunction backward, size_t num_inputs)
      : backward_(std::move(backward)), num_inputs_(num_inputs) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    const at::NoGradGuard no_grad;
    if (!gradients[0].defined()) return torch::autograd::variable_list(num_inputs_);
    const BackwardFunction backward = std::exchange(backward_, nullptr);
    return backward(gradients[0].contiguous());
  }
  void release_variables() override { backward_ = nullptr; }

 private:
  BackwardFunction backward_;
  size_t num_inputs_;
};

}  // namespace

Tensor record(Tensor output, const std::vector<Tensor>& inputs, BackwardFunction backward) {
  auto node = std::make_shared<FunctionNode>(std::move(backward), inputs.size());
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  torch::autograd::set_history(output, node);
  return output;
}

SavedActivation::SavedActivation(const Tensor& x, Workspace& workspace) {
  if (workspace.saved_precision() == SavedPrecision::kFloat32) {
    rows_ = x.detach();
    return;
  }
  *this = room_for(x, workspace);
  uint16_t* out = mutable_bfloat16_rows();
  parallel_for(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    kernels::float_to_bfloat16(row_data(x, begin), (end - begin) * width_, out + begin * width_);
  });
}

SavedActivation SavedActivation::room_for(const Tensor& x, Workspace& workspace) {
  SavedActivation saved;
  saved.width_ = x.size(1);
  saved.bits_ = workspace.empty_to_keep(x.size(0), (x.size(1) + 1) / 2);
  return saved;
}

Tensor SavedActivation::restore(Workspace& workspace) const {
  if (rows_.defined()) return rows_;
  Tensor x = workspace.empty(bits_.size(0), width_);
  parallel_for(x.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
    kernels::bfloat16_to_float(bfloat16_rows() + begin * width_, (end - begin) * width_,
                               mutable_row_data(x, begin));
  });
  return x;
}

const float* SavedActivation::row(int64_t row, float* buffer) const {
  if (rows_.defined()) return row_data(rows_, row);
  kernels::bfloat16_to_float(bfloat16_rows() + row * width_, width_, buffer);
  return buffer;
}

void run_backward(const Tensor& output, const Tensor& gradient) {
  // All that LibTorch does itself is to add gradients, and after each such sum threads of its own
  // would spin for milliseconds on cores that our kernels want. Its number of threads, once set up,
  // is OpenMP's; at::set_num_threads() would make it a pool of threads anew.
  at::get_num_threads();
  const LibraryThreads alone(1);
  torch::autograd::backward({output}, {gradient});
}

Tensor checkpoint(const CheckpointedFunction& function, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> kept;
  std::vector<bool> needed;
  for (const Tensor& input : inputs) {
    kept.push_back(input.detach());
    needed.push_back(needs_gradient(input));
  }
  Tensor output;
  {
    const at::NoGradGuard no_grad;
    output = function(kept).detach();
  }
  return record(output, inputs, [function, kept, needed](const Tensor& gradient) {
    std::vector<Tensor> again;
    for (size_t i = 0; i < kept.size(); ++i) {
      again.push_back(kept[i].detach());
      again.back().set_requires_grad(needed[i]);
    }
    const at::AutoGradMode with_gradients(true);
    const Tensor output_again = function(again);
    // A layer may hold nothing that is trained, over inputs that need nothing.
    if (output_again.requires_grad()) run_backward(output_again, gradient);
    std::vector<Tensor> gradients;
    for (size_t i = 0; i < again.size(); ++i) {
      gradients.push_back(needed[i] ? again[i].grad() : Tensor());
    }
    return gradients;
  });
}

}  // namespace quarry::nn
