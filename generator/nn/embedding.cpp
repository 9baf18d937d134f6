#include "generator/nn/embedding.h"

#include "data/core/error.h"

namespace quarry::nn {

Embedding::Embedding(const TensorView& table)
    : num_rows_(table.shape[0]),
      width_(table.shape[1]),
      type_(table.type),
      rows_(table.data, table.data + table.bytes) {}

Embedding::Embedding(std::shared_ptr<const kernels::PackedMatrix> table)
    : num_rows_(table->n()), width_(table->k()), packed_(std::move(table)) {}

Tensor Embedding::forward(const std::vector<int32_t>& ids, Workspace& workspace) const {
  Tensor out = workspace.empty(static_cast<int64_t>(ids.size()), width_);
  const int64_t row_bytes = weight_bytes(type_, width_);
  for (size_t i = 0; i < ids.size(); ++i) {
    QUARRY_DCHECK(ids[i] >= 0 && ids[i] < num_rows_);
    float* destination = mutable_row_data(out, static_cast<int64_t>(i));
    if (packed_ != nullptr) {
      kernels::decode_row(*packed_, ids[i], destination);
    } else {
      dequantize(type_, rows_.data() + ids[i] * row_bytes, destination, width_);
    }
  }
  return out;
}

}  // namespace quarry::nn
