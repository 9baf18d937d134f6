#pragma once

#include <cstddef>
#include <cstdint>

namespace quarry {

// How the elements of a stored tensor are encoded. Bytes of the block formats: quant/blocks.h.
enum class WeightType {
  kF32,
  kF16,
  kBF16,
  kU8,
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
  // Of bitsandbytes: codes that need a QuantState (quant/quant_state.h) to be decoded.
  kNF4,       // two codes a byte, over the flattened tensor
  kFP4,       // the same
  kInt8Rows,  // signed bytes with one absmax a row
};

// Whether dequantize() alone cannot decode the type.
constexpr bool needs_quant_state(WeightType type) {
  return type == WeightType::kNF4 || type == WeightType::kFP4 || type == WeightType::kInt8Rows;
}

struct WeightTypeTraits {
  const char* name;    // "F32", "Q4_1": the names GGUF uses
  int64_t block_size;  // elements in a block; 1 for dense types
  int64_t bytes_per_block;
};

const WeightTypeTraits& weight_type_traits(WeightType type);

// Bytes of `count` elements. REQUIRES: count % block_size == 0 (but for kNF4 and kFP4, which pad
// an odd count) and no overflow (callers check counts from files first).
int64_t weight_bytes(WeightType type, int64_t count);

// Decodes `count` elements at `source` (any alignment) to float32, exactly as the format defines
// them. REQUIRES: count % block_size == 0 and no type that needs_quant_state(). Integer types are
// converted.
void dequantize(WeightType type, const void* source, float* destination, int64_t count);

}  // namespace quarry
