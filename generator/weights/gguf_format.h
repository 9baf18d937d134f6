#pragma once

#include <cstdint>
#include <optional>

#include "generator/quant/weight_type.h"

// Numbers of the GGUF format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions
// 2 and 3, little-endian:
//
//   char[4] "GGUF", uint32 version, uint64 tensor count, uint64 metadata count
//   metadata:  string key, uint32 value type, value        (string: uint64 length, bytes)
//              array value: uint32 element type, uint64 count, elements
//   tensors:   string name, uint32 dimensions, uint64 extents (innermost first), uint32 type,
//              uint64 offset into the data section
//   padding to general.alignment (32 when absent), then the data section
namespace quarry::gguf {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kOldestVersion = 2;
constexpr uint32_t kNewestVersion = 3;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kLargestAlignment = 1 << 20;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMinMetadataBytes = 13;  // empty key, type, one byte of value
constexpr uint64_t kMinTensorBytes = 32;    // empty name, one extent, type, offset

enum class ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// "uint32", "string" ...; null for a number that is not a value type.
const char* value_type_name(uint32_t type);

// Bytes of one scalar; 0 for strings and arrays.
int64_t scalar_bytes(ValueType type);

// Nullopt for tensor types that we do not decode.
std::optional<WeightType> weight_type(uint32_t ggml_type);
// The number that a WeightType has in files.
uint32_t ggml_type(WeightType type);

// Name of any ggml tensor type for messages, "unknown" for numbers without one.
const char* ggml_type_name(uint32_t ggml_type);

}  // namespace quarry::gguf
