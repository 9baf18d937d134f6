#include "generator/nn/embedding.h"

#include <algorithm>
#include <cstring>

#include "data/core/error.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {

Embedding::Embedding(const TensorView& table, const std::string& path, SpillFile* spill)
    : weight_name_(path + ".weight"),
      num_rows_(table.shape[0]),
      width_(table.shape[1]),
      type_(table.type),
      rows_(table.bytes) {
  QUARRY_CHECK(!needs_quant_state(table.type), ErrorCode::kInvalidArgument, "tensor '", table.name,
               "': an embedding as ", weight_type_traits(table.type).name, " is not supported");
  std::memcpy(rows_.data(), table.data, static_cast<size_t>(table.bytes));
  if (spill != nullptr) rows_.move_to(*spill);
}

Embedding::Embedding(std::shared_ptr<const kernels::PackedMatrix> table, const std::string& path)
    : weight_name_(path + ".weight"),
      num_rows_(table->n()),
      width_(table->k()),
      packed_(std::move(table)) {}

void Embedding::decode(int64_t row, float* destination) const {
  QUARRY_DCHECK(row >= 0 && row < num_rows_);
  if (packed_ != nullptr) {
    kernels::decode_row(*packed_, row, destination);
  } else {
    dequantize(type_, rows_.data() + row * weight_bytes(type_, width_), destination, width_);
  }
}

Tensor Embedding::forward(const std::vector<int32_t>& ids, const std::vector<AdapterSpan>& spans,
                          Workspace& workspace) const {
  Tensor out = workspace.empty(static_cast<int64_t>(ids.size()), width_);
  std::vector<AdapterSpan> trained;
  size_t done = 0;
  const auto look_up_base = [&](size_t end) {
    for (size_t i = done; i < end; ++i)
      decode(ids[i], mutable_row_data(out, static_cast<int64_t>(i)));
  };
  for (const AdapterSpan& span : spans) {
    const FullTensor* own = span.adapter->find_full(weight_name_);
    if (own == nullptr) continue;
    look_up_base(static_cast<size_t>(span.begin));
    for (int64_t i = span.begin; i < span.end; ++i) {
      const float* row = own->values.data() + ids[static_cast<size_t>(i)] * width_;
      std::copy_n(row, width_, mutable_row_data(out, i));
    }
    done = static_cast<size_t>(span.end);
    if (span.trains()) trained.push_back(span);
  }
  look_up_base(ids.size());
  if (trained.empty() || !at::GradMode::is_enabled()) return out;
  return record(out, {}, [this, ids, trained](const Tensor& dy) {
    for (const AdapterSpan& span : trained) {
      float* gradient = span.gradients->full_at(weight_name_).data();
      for (int64_t i = span.begin; i < span.end; ++i) {
        float* row = gradient + ids[static_cast<size_t>(i)] * width_;
        kernels::add_scaled(row_data(dy, i), 1.0f, width_, row);
      }
    }
    return std::vector<Tensor>();
  });
}

}  // namespace quarry::nn
