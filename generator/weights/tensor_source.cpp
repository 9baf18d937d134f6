#include "generator/weights/tensor_source.h"

#include "generator/quant/four_bit.h"
#include "generator/quant/int8_rows.h"

namespace quarry {

void decode_rows(const TensorView& tensor, int64_t begin, int64_t end, float* destination) {
  const int64_t width = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (!needs_quant_state(tensor.type)) {
    dequantize(tensor.type, tensor.data + weight_bytes(tensor.type, begin * width), destination,
               (end - begin) * width);
    return;
  }
  if (tensor.type != WeightType::kInt8Rows) {
    dequantize_four_bit(tensor.type, *tensor.state, tensor.data, begin * width, end * width,
                        destination);
    return;
  }
  const auto* codes = reinterpret_cast<const int8_t*>(tensor.data);
  for (int64_t row = begin; row < end; ++row) {
    dequantize_int8_row(*tensor.state, codes, row, width, destination + (row - begin) * width);
  }
}

void decode_tensor(const TensorView& tensor, float* destination) {
  const int64_t width = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (width > 0) decode_rows(tensor, 0, tensor.num_elements() / width, destination);
}

}  // namespace quarry
