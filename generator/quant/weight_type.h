#pragma once

#include <cstddef>
#include <cstdint>

namespace quarry {

// How the elements of a stored tensor are encoded. Bytes of the block formats: quant/blocks.h.
enum class WeightType {
  kF32,
  kF16,
  kBF16,
  kI8,
  kI32,
  kI64,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

struct WeightTypeTraits {
  const char* name;    // "F32", "Q4_1": the names GGUF uses
  int64_t block_size;  // elements in a block; 1 for dense types
  int64_t bytes_per_block;
};

const WeightTypeTraits& weight_type_traits(WeightType type);

// Bytes of `count` elements. REQUIRES: count % block_size == 0 and no overflow (callers check
// counts from files first).
int64_t weight_bytes(WeightType type, int64_t count);

// Decodes `count` elements at `source` (any alignment) to float32, exactly as the format defines
// them. REQUIRES: count % block_size == 0. Integer types are converted.
void dequantize(WeightType type, const void* source, float* destination, int64_t count);

}  // namespace quarry
