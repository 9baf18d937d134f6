#pragma once

#include <memory>
#include <string>
#include <vector>

#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/matmul.h"
#include "generator/nn/adapter_span.h"
#include "generator/nn/workspace.h"
#include "generator/weights/tensor_source.h"

namespace quarry::nn {

// A table [num_rows, width] looked up by row: the model's, or that of each row's adapter where it
// has its own. Immutable.
class Embedding {
 public:
  // Copies the rows as they are stored, into `spill` where it is given. `path`: Hugging Face module
  // path; empty where no adapter has a table of its own.
  explicit Embedding(const TensorView& table, const std::string& path = "",
                     SpillFile* spill = nullptr);
  // Shares the rows of a packed matrix (a head tied to the embedding).
  explicit Embedding(std::shared_ptr<const kernels::PackedMatrix> table,
                     const std::string& path = "");

  int64_t num_rows() const { return num_rows_; }
  int64_t width() const { return width_; }
  // [ids.size(), width]. Spans are inside [0, ids.size()). The gradient of an adapter's own table
  // is added to span.gradients when the backward pass comes by. REQUIRES: every id in [0,
  // num_rows).
  Tensor forward(const std::vector<int32_t>& ids, const std::vector<AdapterSpan>& spans,
                 Workspace& workspace) const;
  Tensor forward(const std::vector<int32_t>& ids, Workspace& workspace) const {
    return forward(ids, {}, workspace);
  }
  const std::string& weight_name() const { return weight_name_; }
  // Row `row` as it is computed with.
  void decode(int64_t row, float* destination) const;

 private:
  std::string weight_name_;
  int64_t num_rows_;
  int64_t width_;
  std::shared_ptr<const kernels::PackedMatrix> packed_;  // null: the next two are used
  WeightType type_ = WeightType::kF32;
  kernels::AlignedBuffer rows_;
};

}  // namespace quarry::nn
