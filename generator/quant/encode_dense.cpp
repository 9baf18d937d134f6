#include "generator/quant/encode_dense.h"

#include <cstring>

#include "data/core/error.h"
#include "generator/quant/half.h"

namespace quarry {

void encode_dense(WeightType type, const float* source, int64_t count, void* destination) {
  QUARRY_CHECK(is_dense_float(type), ErrorCode::kInvalidArgument, "cannot write values as ",
               weight_type_traits(type).name, ", wanted F32, F16 or BF16");
  if (count == 0) return;
  if (type == WeightType::kF32) {
    std::memcpy(destination, source, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  auto* bytes = static_cast<uint8_t*>(destination);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = type == WeightType::kF16 ? quant::float_to_half(source[i])
                                                   : quant::float_to_bfloat16(source[i]);
    std::memcpy(bytes + i * 2, &bits, sizeof(bits));
  }
}

}  // namespace quarry
