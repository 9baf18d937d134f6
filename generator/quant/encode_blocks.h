#pragma once

#include <cstdint>

#include "generator/quant/weight_type.h"

namespace quarry {

// Whether encode_blocks() can write a type: kQ4_0, kQ4_1, kQ5_0, kQ5_1 and kQ8_0.
bool can_encode_blocks(WeightType type);

// Quantizes float32 values to blocks of 32 (quant/blocks.h), bit for bit as the reference
// quantizers of ggml do. `destination` holds weight_bytes(type, count) and may be unaligned. Throws
// kInvalidArgument for another type. REQUIRES: count % 32 == 0, finite values.
void encode_blocks(WeightType type, const float* source, int64_t count, void* destination);

}  // namespace quarry
