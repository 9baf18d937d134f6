#pragma once

#include <memory>
#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/nn/workspace.h"
#include "generator/weights/tensor_source.h"

namespace quarry::nn {

// A table [num_rows, width] looked up by row. Immutable.
class Embedding {
 public:
  // Copies the rows as they are stored.
  explicit Embedding(const TensorView& table);
  // Shares the rows of a packed matrix (a head tied to the embedding).
  explicit Embedding(std::shared_ptr<const kernels::PackedMatrix> table);

  int64_t num_rows() const { return num_rows_; }
  int64_t width() const { return width_; }
  // [ids.size(), width]. REQUIRES: every id in [0, num_rows).
  Tensor forward(const std::vector<int32_t>& ids, Workspace& workspace) const;

 private:
  int64_t num_rows_;
  int64_t width_;
  std::shared_ptr<const kernels::PackedMatrix> packed_;  // null: the next two are used
  WeightType type_ = WeightType::kF32;
  std::vector<uint8_t> rows_;
};

}  // namespace quarry::nn
