#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generator/quant/weight_type.h"

namespace quarry {

// A named tensor that a checkpoint keeps, with its own copy of the bytes.
struct StateTensor {
  std::string name;
  WeightType type = WeightType::kF32;  // kF32, kI8 (also for unsigned bytes) or kI64
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;  // little-endian, row-major
};

}  // namespace quarry
