#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "generator/kernels/matmul.h"

namespace quarry::nn {

// Legend for shapes in nn/ and models/: B batch, T new tokens (rows), S key tokens (cached plus
// new), H heads, K kv heads, D head_dim, E hidden_size, F intermediate_size, V vocab.
using at::Tensor;

// What the backward pass finds of an activation.
enum class SavedPrecision {
  kFloat32,
  kBFloat16,  // half the memory; a relative rounding of 2^-9
};

// Where activations live. The memory of a tensor that nobody holds any more, autograd included, is
// handed out again, so that a step allocates nothing once the largest one has been seen. One
// thread.
class Workspace {
 public:
  // Float32 [rows, width], contiguous, not initialized, without autograd history.
  Tensor empty(int64_t rows, int64_t width);
  // The same for what is kept until the backward pass, in memory of just its size: what one pass
  // keeps, the next one finds.
  Tensor empty_to_keep(int64_t rows, int64_t width);
  // A training pass over `rows` rows begins; nothing of the one before is held any more. Its
  // tensors are given memory for the most rows that a pass has had, and memory for fewer is
  // forgotten: passes of many sizes take what the largest one alone would.
  void begin_pass(int64_t rows);
  int64_t bytes() const;
  // Forgets the memory that is free.
  void trim();

  SavedPrecision saved_precision() const { return saved_precision_; }
  void set_saved_precision(SavedPrecision precision) { saved_precision_ = precision; }
  // For the products of every Linear that works here.
  kernels::ActivationBits activation_bits() const { return activation_bits_; }
  void set_activation_bits(kernels::ActivationBits bits) { activation_bits_ = bits; }

 private:
  // `most_too_large`: how many times the memory it needs it may get.
  Tensor take(int64_t rows, int64_t width, int64_t most_too_large);

  SavedPrecision saved_precision_ = SavedPrecision::kFloat32;
  kernels::ActivationBits activation_bits_ = kernels::ActivationBits::k16;
  std::vector<Tensor> buffers_;  // flat; one is free when only this vector refers to it
  int64_t pass_rows_ = 0;
  int64_t most_rows_ = 0;  // of all passes
};

// Sets the activation bits of a workspace until the end of a scope.
class ActivationBitsScope {
 public:
  ActivationBitsScope(Workspace& workspace, kernels::ActivationBits bits)
      : workspace_(workspace), before_(workspace.activation_bits()) {
    workspace.set_activation_bits(bits);
  }
  ~ActivationBitsScope() { workspace_.set_activation_bits(before_); }
  ActivationBitsScope(const ActivationBitsScope&) = delete;
  ActivationBitsScope& operator=(const ActivationBitsScope&) = delete;

 private:
  Workspace& workspace_;
  kernels::ActivationBits before_;
};

// Row `row` of a contiguous float32 matrix.
inline const float* row_data(const Tensor& x, int64_t row) {
  return x.data_ptr<float>() + row * x.size(1);
}
inline float* mutable_row_data(Tensor& x, int64_t row) {
  return x.data_ptr<float>() + row * x.size(1);
}

}  // namespace quarry::nn
