#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/nn/adapter_span.h"
#include "generator/nn/workspace.h"
#include "generator/quant/int8_rows.h"
#include "generator/quant/weight_options.h"
#include "generator/weights/tensor_source.h"

namespace quarry::nn {

class SavedActivation;

// One projection as it stands in a file.
struct Projection {
  std::string path;                    // Hugging Face module path: what adapters address
  const TensorView* weight = nullptr;  // [out_features, in_features]
  const TensorView* bias = nullptr;    // [out_features], or null
  // Row i of the projection is row row_order[i] of `weight`; empty: as stored.
  std::vector<int64_t> row_order;
};

// Projections of the same input, computed together: y = [x W0^T + b0 | x W1^T + b1 | ...], plus
// the low-rank update of each row's adapter (Hu et al. 2021, arXiv:2106.09685), with that adapter's
// own W or b where it has one. Neighbours whose weights have the same type share one packed matrix.
// The weights are copied: the views may go away. Immutable.
class Linear {
 public:
  // REQUIRES: at least one projection; all with the same in_features.
  // Projections that are quantized at load, or came with a QuantState, have a matrix each.
  Linear(const std::vector<Projection>& projections, kernels::Precision precision,
         const WeightOptions& options = {});

  int64_t in_features() const { return in_features_; }
  int64_t out_features() const { return out_features_; }
  size_t num_projections() const { return slices_.size(); }
  const std::string& path(size_t index) const { return slices_[index].path; }
  // Columns [offset, offset + width) of y are projection `index`.
  int64_t offset(size_t index) const { return slices_[index].offset; }
  int64_t width(size_t index) const { return slices_[index].width; }
  bool has_bias(size_t index) const { return slices_[index].has_bias; }

  // Whether a product is that of LLM.int8, outliers apart.
  bool has_outlier_product() const {
    return std::any_of(blocks_.begin(), blocks_.end(),
                       [](const Block& block) { return block.int8 != nullptr; });
  }
  // The matrices that make y: columns [offset, offset + matrix.n()).
  size_t num_matrices() const { return blocks_.size(); }
  const kernels::PackedMatrix& matrix(size_t index) const { return *blocks_[index].weight; }
  int64_t matrix_offset(size_t index) const { return blocks_[index].offset; }
  // [out_features], or empty.
  const std::vector<float>& bias() const { return bias_; }

  // x [T, in_features] -> y [T, out_features]. Spans are inside [0, T). Differentiable with respect
  // to x. The weight is frozen: x is kept only for the gradients of an adapter. Those are added to
  // span.gradients when the backward pass comes by.
  Tensor forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                 Workspace& workspace) const;
  Tensor forward(const Tensor& x, Workspace& workspace) const;

  // Values of projection `index` as they are computed with: weight [width, in_features] and bias
  // [width]. REQUIRES of bias_values: has_bias(index).
  std::vector<float> weight_values(size_t index) const;
  std::vector<float> bias_values(size_t index) const;

  // The Linear that is used after this one: where its weights lie in a file, they are read ahead.
  // Borrowed.
  void set_next(const Linear* next) { next_ = next; }

 private:
  struct Slice {
    std::string path;
    std::string weight;  // names of its parameters
    std::string bias;
    int64_t offset;
    int64_t width;
    bool has_bias;
  };
  struct Block {
    std::unique_ptr<kernels::PackedMatrix> weight;
    int64_t offset;
    std::unique_ptr<const Int8Rows> int8;  // set: the product of LLM.int8 is wanted
  };
  // x or dy as the products of an adapter take it.
  struct Operand {
    Tensor floats;                             // undefined where nothing multiplies them
    const SavedActivation* rounded = nullptr;  // bfloat16; null: the floats are multiplied
  };
  // x times the weights, and of the adapters only `updates`; `bias` is null or bias_'s, and no
  // block is int8 then.
  void multiply(const Tensor& x, Tensor& y, kernels::ActivationBits bits,
                const kernels::RoundedCopy& copy,
                const std::vector<kernels::LowRankUpdate>& updates, const float* bias) const;
  // The adapters' part of the forward pass.
  void replace_products(const Tensor& x, const AdapterSpan& span, Tensor& y) const;
  void add_biases(const std::vector<AdapterSpan>& spans, Tensor& y) const;
  std::vector<float> own_bias(const AdapterSpan& span) const;  // empty: the adapter has none
  // The updates of these spans where they can run beside the product.
  std::optional<std::vector<kernels::LowRankUpdate>> updates_beside(
      const std::vector<AdapterSpan>& spans, const Workspace& workspace) const;
  LinearUpdates make_updates(const LoraAdapter& adapter) const;
  void add_adapter(const Operand& x, const AdapterSpan& span, Tensor& y,
                   Workspace& workspace) const;

  // Whether the products of adapters take bfloat16 operands.
  bool rounds(const Workspace& workspace) const;
  // Whether the gradients of the span's adapter need x in float32 even so.
  bool needs_floats(const AdapterSpan& span) const;
  bool trains(const AdapterSpan& span) const;
  // dx without the low-rank updates. `rounded`, where it is given, gets dy if it can on the way.
  Tensor input_gradient(const Tensor& dy, const std::vector<AdapterSpan>& spans,
                        SavedActivation* rounded, Workspace& workspace) const;
  Tensor base_input_gradient(const Tensor& dy, const kernels::RoundedCopy& copy,
                             Workspace& workspace) const;
  // dy with zeros where an adapter has its own weight; dy itself when none has.
  Tensor without_replaced(const Tensor& dy, const std::vector<AdapterSpan>& spans,
                          Workspace& workspace) const;
  // Adds the gradients of the span's adapter and, where dx is defined, its low-rank part of dx.
  void backward_adapter(const Operand& x, const Operand& dy, const AdapterSpan& span, Tensor& dx,
                        Workspace& workspace) const;
  void backward_full(const Tensor& x, const Tensor& dy, const AdapterSpan& span,
                     const Slice& slice) const;
  void backward_pair(const Operand& x, const Operand& dy, const AdapterSpan& span,
                     const Slice& slice, Tensor& dx, Workspace& workspace) const;

  size_t number_;  // no other Linear of this process has it
  float llm_int8_threshold_ = 0.0f;
  int64_t in_features_ = 0;
  int64_t out_features_ = 0;
  std::vector<Slice> slices_;
  std::vector<Block> blocks_;
  std::vector<float> bias_;  // [out_features], or empty
  bool is_spilled_ = false;
  const Linear* next_ = nullptr;
};

}  // namespace quarry::nn
