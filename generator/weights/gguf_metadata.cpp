// Typed access to a GGUF file's metadata. Offsets were checked when the file was opened.
#include <cmath>
#include <cstring>
#include <limits>

#include "data/core/error.h"
#include "generator/weights/gguf_file.h"
#include "generator/weights/printable.h"

namespace quarry {

using gguf::ValueType;

const GgufFile::Value* GgufFile::find_value(const std::string& key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

std::string_view GgufFile::get_raw(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) throw_missing(key, "any value");
  return {reinterpret_cast<const char*>(file_.data()) + value->begin, value->end - value->begin};
}

void GgufFile::throw_type(const std::string& key, const Value& value, const char* wanted) const {
  std::string found = gguf::value_type_name(static_cast<uint32_t>(value.type));
  if (value.type == ValueType::kArray) {
    found += std::string(" of ") + gguf::value_type_name(static_cast<uint32_t>(value.element_type));
  }
  throw_error(ErrorCode::kCorruptData, description_, ": metadata ", printable(key), " has type ",
              found, ", wanted ", wanted);
}

void GgufFile::throw_missing(const std::string& key, const char* wanted) const {
  throw_error(ErrorCode::kCorruptData, description_, ": metadata ", printable(key),
              " is missing, wanted ", wanted);
}

template <typename T>
T GgufFile::load(uint64_t offset) const {
  T value;
  std::memcpy(&value, file_.data() + offset, sizeof(T));
  return value;
}

template uint32_t GgufFile::load<uint32_t>(uint64_t) const;

std::optional<int64_t> GgufFile::load_int(const std::string& key, ValueType type,
                                          uint64_t offset) const {
  switch (type) {
    case ValueType::kUint8:
      return load<uint8_t>(offset);
    case ValueType::kInt8:
      return load<int8_t>(offset);
    case ValueType::kUint16:
      return load<uint16_t>(offset);
    case ValueType::kInt16:
      return load<int16_t>(offset);
    case ValueType::kUint32:
      return load<uint32_t>(offset);
    case ValueType::kInt32:
      return load<int32_t>(offset);
    case ValueType::kInt64:
      return load<int64_t>(offset);
    case ValueType::kUint64: {
      const auto wide = load<uint64_t>(offset);
      QUARRY_CHECK(wide <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
                   ErrorCode::kCorruptData, description_, ": metadata ", printable(key), " is ",
                   wide, ", too large");
      return static_cast<int64_t>(wide);
    }
    default:
      return std::nullopt;
  }
}

std::optional<std::string> GgufFile::find_string(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != ValueType::kString) throw_type(key, *value, "string");
  const auto length = load<uint64_t>(value->offset);
  return std::string(reinterpret_cast<const char*>(file_.data() + value->offset + 8), length);
}

std::optional<int64_t> GgufFile::find_int(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = load_int(key, value->type, value->offset);
  if (!number) throw_type(key, *value, "an integer");
  return number;
}

std::optional<double> GgufFile::find_float(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type == ValueType::kFloat32) return load<float>(value->offset);
  if (value->type == ValueType::kFloat64) return load<double>(value->offset);
  const std::optional<int64_t> number = load_int(key, value->type, value->offset);
  if (!number) throw_type(key, *value, "a number");
  return static_cast<double>(*number);
}

std::optional<bool> GgufFile::find_bool(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != ValueType::kBool) throw_type(key, *value, "bool");
  const auto byte = load<uint8_t>(value->offset);
  QUARRY_CHECK(byte <= 1, ErrorCode::kCorruptData, description_, ": metadata ", printable(key),
               " is the bool ", static_cast<int>(byte), ", neither 0 nor 1");
  return byte == 1;
}

std::optional<std::vector<std::string>> GgufFile::find_strings(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != ValueType::kArray || value->element_type != ValueType::kString) {
    throw_type(key, *value, "array of string");
  }
  std::vector<std::string> strings;
  strings.reserve(value->count);
  uint64_t offset = value->offset;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto length = load<uint64_t>(offset);
    strings.emplace_back(reinterpret_cast<const char*>(file_.data() + offset + 8), length);
    offset += 8 + length;
  }
  return strings;
}

std::optional<std::vector<int64_t>> GgufFile::find_ints(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != ValueType::kArray) throw_type(key, *value, "array of integers");
  std::vector<int64_t> numbers;
  numbers.reserve(value->element_type == ValueType::kString ? 0 : value->count);
  const auto step = static_cast<uint64_t>(gguf::scalar_bytes(value->element_type));
  for (uint64_t i = 0; i < value->count; ++i) {
    const std::optional<int64_t> number =
        load_int(key, value->element_type, value->offset + i * step);
    if (!number) throw_type(key, *value, "array of integers");
    numbers.push_back(*number);
  }
  return numbers;
}

std::optional<std::vector<float>> GgufFile::find_floats(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != ValueType::kArray || value->element_type != ValueType::kFloat32) {
    throw_type(key, *value, "array of float");
  }
  std::vector<float> numbers(value->count);
  if (!numbers.empty()) {
    std::memcpy(numbers.data(), file_.data() + value->offset, numbers.size() * sizeof(float));
  }
  return numbers;
}

std::optional<int64_t> GgufFile::find_array_size(const std::string& key) const {
  const Value* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != ValueType::kArray) throw_type(key, *value, "array");
  return static_cast<int64_t>(value->count);
}

std::string GgufFile::get_string(const std::string& key) const {
  std::optional<std::string> value = find_string(key);
  if (!value) throw_missing(key, "string");
  return std::move(*value);
}

int64_t GgufFile::get_int(const std::string& key) const {
  const std::optional<int64_t> value = find_int(key);
  if (!value) throw_missing(key, "an integer");
  return *value;
}

double GgufFile::get_float(const std::string& key) const {
  const std::optional<double> value = find_float(key);
  if (!value) throw_missing(key, "a number");
  return *value;
}

std::vector<std::string> GgufFile::get_strings(const std::string& key) const {
  std::optional<std::vector<std::string>> value = find_strings(key);
  if (!value) throw_missing(key, "array of string");
  return std::move(*value);
}

}  // namespace quarry
