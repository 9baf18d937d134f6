#pragma once

#include <cstdint>

#include "generator/quant/weight_type.h"

namespace quarry {

// kF32, kF16 or kBF16.
constexpr bool is_dense_float(WeightType type) {
  return type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16;
}

// Writes float32 values as kF32, kF16 or kBF16, rounded to nearest even; the inverse of
// dequantize(). `destination` holds weight_bytes(type, count) and may be unaligned. Throws
// kInvalidArgument for any other type.
void encode_dense(WeightType type, const float* source, int64_t count, void* destination);

}  // namespace quarry
