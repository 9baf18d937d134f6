#include "generator/weights/gguf_format.h"

#include <array>

#include "data/core/error.h"

namespace quarry::gguf {
namespace {

struct TensorType {
  uint32_t number;
  const char* name;
  std::optional<WeightType> type;
};

constexpr std::array<TensorType, 36> kTensorTypes{{
    {0, "F32", WeightType::kF32},    {1, "F16", WeightType::kF16},
    {2, "Q4_0", WeightType::kQ4_0},  {3, "Q4_1", WeightType::kQ4_1},
    {6, "Q5_0", WeightType::kQ5_0},  {7, "Q5_1", WeightType::kQ5_1},
    {8, "Q8_0", WeightType::kQ8_0},  {9, "Q8_1", std::nullopt},
    {10, "Q2_K", std::nullopt},      {11, "Q3_K", std::nullopt},
    {12, "Q4_K", WeightType::kQ4_K}, {13, "Q5_K", WeightType::kQ5_K},
    {14, "Q6_K", WeightType::kQ6_K}, {15, "Q8_K", std::nullopt},
    {16, "IQ2_XXS", std::nullopt},   {17, "IQ2_XS", std::nullopt},
    {18, "IQ3_XXS", std::nullopt},   {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt},    {21, "IQ3_S", std::nullopt},
    {22, "IQ2_S", std::nullopt},     {23, "IQ4_XS", std::nullopt},
    {24, "I8", WeightType::kI8},     {25, "I16", std::nullopt},
    {26, "I32", WeightType::kI32},   {27, "I64", WeightType::kI64},
    {28, "F64", std::nullopt},       {29, "IQ1_M", std::nullopt},
    {30, "BF16", WeightType::kBF16}, {31, "Q4_0_4_4", std::nullopt},
    {32, "Q4_0_4_8", std::nullopt},  {33, "Q4_0_8_8", std::nullopt},
    {34, "TQ1_0", std::nullopt},     {35, "TQ2_0", std::nullopt},
    {39, "MXFP4", std::nullopt},     {40, "NVFP4", std::nullopt},
}};

const TensorType* find_tensor_type(uint32_t number) {
  for (const TensorType& entry : kTensorTypes) {
    if (entry.number == number) return &entry;
  }
  return nullptr;
}

constexpr std::array<const char*, 13> kValueTypeNames{
    "uint8", "int8",   "uint16", "int16",  "uint32", "int32", "float",
    "bool",  "string", "array",  "uint64", "int64",  "double"};

}  // namespace

const char* value_type_name(uint32_t type) {
  return type < kValueTypeNames.size() ? kValueTypeNames[type] : nullptr;
}

int64_t scalar_bytes(ValueType type) {
  switch (type) {
    case ValueType::kUint8:
    case ValueType::kInt8:
    case ValueType::kBool:
      return 1;
    case ValueType::kUint16:
    case ValueType::kInt16:
      return 2;
    case ValueType::kUint32:
    case ValueType::kInt32:
    case ValueType::kFloat32:
      return 4;
    case ValueType::kUint64:
    case ValueType::kInt64:
    case ValueType::kFloat64:
      return 8;
    case ValueType::kString:
    case ValueType::kArray:
      break;
  }
  return 0;
}

std::optional<WeightType> weight_type(uint32_t ggml_type) {
  const TensorType* entry = find_tensor_type(ggml_type);
  return entry == nullptr ? std::nullopt : entry->type;
}

uint32_t ggml_type(WeightType type) {
  for (const TensorType& entry : kTensorTypes) {
    if (entry.type == type) return entry.number;
  }
  throw_error(ErrorCode::kInternal, "weight type ", static_cast<int>(type), " has no GGUF number");
}

const char* ggml_type_name(uint32_t ggml_type) {
  const TensorType* entry = find_tensor_type(ggml_type);
  return entry == nullptr ? "unknown" : entry->name;
}

}  // namespace quarry::gguf
