#include "generator/nn/load.h"

#include <ATen/ops/empty.h>

#include "data/core/error.h"

namespace quarry::nn {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

void check(const TensorSource& source, const TensorView& tensor,
           const std::vector<int64_t>& shape) {
  QUARRY_CHECK(tensor.shape == shape, ErrorCode::kCorruptData, source.description(), ": tensor '",
               tensor.name, "' has shape ", shape_text(tensor.shape),
               ", the configuration asks for ", shape_text(shape));
  const WeightType type = tensor.type;
  QUARRY_CHECK(type != WeightType::kI8 && type != WeightType::kU8 && type != WeightType::kI32 &&
                   type != WeightType::kI64,
               ErrorCode::kCorruptData, source.description(), ": tensor '", tensor.name,
               "' holds integers (", weight_type_traits(type).name, "), weights are wanted");
  if (needs_quant_state(type)) return;
  QUARRY_CHECK(shape.back() % weight_type_traits(type).block_size == 0, ErrorCode::kCorruptData,
               source.description(), ": tensor '", tensor.name, "' has rows of ", shape.back(),
               " elements, not whole blocks of ", weight_type_traits(type).name);
}

}  // namespace

const TensorView& get_checked(const TensorSource& source, const std::string& name,
                              const std::vector<int64_t>& shape) {
  const TensorView& tensor = source.get(name);
  check(source, tensor, shape);
  return tensor;
}

const TensorView* find_checked(const TensorSource& source, const std::string& name,
                               const std::vector<int64_t>& shape) {
  const TensorView* tensor = source.find(name);
  if (tensor != nullptr) check(source, *tensor, shape);
  return tensor;
}

Tensor load_vector(const TensorSource& source, const std::string& name, int64_t width) {
  const TensorView& view = get_checked(source, name, {width});
  Tensor vector = at::empty({width}, at::kFloat);
  decode_tensor(view, vector.data_ptr<float>());
  return vector;
}

}  // namespace quarry::nn
