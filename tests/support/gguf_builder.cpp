#include "tests/support/gguf_builder.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "data/core/error.h"
#include "generator/quant/blocks.h"
#include "generator/quant/half.h"

namespace quarry::test {
namespace {

using gguf::ValueType;
using namespace quant;

uint8_t clamp_level(float level, int highest) {
  return static_cast<uint8_t>(std::clamp(static_cast<int>(std::lround(level)), 0, highest));
}

BlockQ4_0 encode_q4_0(const float* x) {
  float extreme = 0.0f;
  for (int i = 0; i < kBlockSize; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  BlockQ4_0 block{};
  block.d = float_to_half(extreme / -8.0f);
  const float d = half_to_float(block.d);
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  for (int j = 0; j < 16; ++j) {
    const int high = clamp_level(x[j + 16] * inverse + 8.0f, 15);
    block.qs[j] = static_cast<uint8_t>(clamp_level(x[j] * inverse + 8.0f, 15) | high << 4);
  }
  return block;
}

BlockQ4_1 encode_q4_1(const float* x) {
  const float low = *std::min_element(x, x + kBlockSize);
  const float top = *std::max_element(x, x + kBlockSize);
  BlockQ4_1 block{};
  block.d = float_to_half((top - low) / 15.0f);
  block.m = float_to_half(low);
  const float d = half_to_float(block.d);
  const float m = half_to_float(block.m);
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  for (int j = 0; j < 16; ++j) {
    const int high = clamp_level((x[j + 16] - m) * inverse, 15);
    block.qs[j] = static_cast<uint8_t>(clamp_level((x[j] - m) * inverse, 15) | high << 4);
  }
  return block;
}

BlockQ8_0 encode_q8_0(const float* x) {
  float largest = 0.0f;
  for (int i = 0; i < kBlockSize; ++i) largest = std::max(largest, std::fabs(x[i]));
  BlockQ8_0 block{};
  block.d = float_to_half(largest / 127.0f);
  const float d = half_to_float(block.d);
  const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
  for (int i = 0; i < kBlockSize; ++i) {
    const long level = std::lround(x[i] * inverse);
    block.qs[i] = static_cast<int8_t>(std::clamp(level, -127L, 127L));
  }
  return block;
}

template <typename Encode>
std::string encode_blocks(const std::vector<float>& values, const Encode& encode_one) {
  QUARRY_CHECK(values.size() % kBlockSize == 0, ErrorCode::kInvalidArgument, values.size(),
               " values do not fill blocks of ", kBlockSize);
  std::string out;
  for (size_t i = 0; i < values.size(); i += kBlockSize)
    out += scalar_bytes(encode_one(&values[i]));
  return out;
}

template <typename T>
std::string array_bytes(ValueType type, const std::vector<T>& values) {
  std::string out =
      scalar_bytes(static_cast<uint32_t>(type)) + scalar_bytes<uint64_t>(values.size());
  for (const T& value : values) out += scalar_bytes(value);
  return out;
}

}  // namespace

std::string string_bytes(const std::string& text) {
  return scalar_bytes<uint64_t>(text.size()) + text;
}

std::string encode(WeightType type, const std::vector<float>& values) {
  std::string out;
  switch (type) {
    case WeightType::kF32:
      for (const float value : values) out += scalar_bytes(value);
      return out;
    case WeightType::kF16:
      for (const float value : values) out += scalar_bytes(float_to_half(value));
      return out;
    case WeightType::kBF16:
      for (const float value : values) out += scalar_bytes(float_to_bfloat16(value));
      return out;
    case WeightType::kQ4_0:
      return encode_blocks(values, encode_q4_0);
    case WeightType::kQ4_1:
      return encode_blocks(values, encode_q4_1);
    case WeightType::kQ8_0:
      return encode_blocks(values, encode_q8_0);
    default:
      throw_error(ErrorCode::kInvalidArgument, "no test encoder for ",
                  weight_type_traits(type).name);
  }
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.flush();
  QUARRY_CHECK(out.good(), ErrorCode::kUnavailable, path.string(), ": cannot write");
}

void overwrite_byte(const std::filesystem::path& path, size_t position, char value) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(position));
  file.put(value);
  file.flush();
  QUARRY_CHECK(file.good(), ErrorCode::kUnavailable, path.string(), ": cannot write");
}

void GgufBuilder::set_raw(const std::string& key, uint32_t value_type, const std::string& bytes) {
  values_.push_back({key, value_type, bytes});
}

void GgufBuilder::set_string(const std::string& key, const std::string& value) {
  set_raw(key, static_cast<uint32_t>(ValueType::kString), string_bytes(value));
}

void GgufBuilder::set_uint32(const std::string& key, uint32_t value) {
  set_raw(key, static_cast<uint32_t>(ValueType::kUint32), scalar_bytes(value));
}

void GgufBuilder::set_float(const std::string& key, float value) {
  set_raw(key, static_cast<uint32_t>(ValueType::kFloat32), scalar_bytes(value));
}

void GgufBuilder::set_bool(const std::string& key, bool value) {
  set_raw(key, static_cast<uint32_t>(ValueType::kBool), scalar_bytes<uint8_t>(value ? 1 : 0));
}

void GgufBuilder::set_strings(const std::string& key, const std::vector<std::string>& values) {
  std::string bytes = scalar_bytes(static_cast<uint32_t>(ValueType::kString)) +
                      scalar_bytes<uint64_t>(values.size());
  for (const std::string& value : values) bytes += string_bytes(value);
  set_raw(key, static_cast<uint32_t>(ValueType::kArray), bytes);
}

void GgufBuilder::set_floats(const std::string& key, const std::vector<float>& values) {
  set_raw(key, static_cast<uint32_t>(ValueType::kArray), array_bytes(ValueType::kFloat32, values));
}

void GgufBuilder::set_int32s(const std::string& key, const std::vector<int32_t>& values) {
  set_raw(key, static_cast<uint32_t>(ValueType::kArray), array_bytes(ValueType::kInt32, values));
}

void GgufBuilder::add_encoded_tensor(const std::string& name, WeightType type,
                                     const std::vector<int64_t>& shape, const std::string& data) {
  add_raw_tensor(name, {shape.rbegin(), shape.rend()}, gguf::ggml_type(type), std::nullopt, data);
}

void GgufBuilder::add_tensor(const std::string& name, WeightType type,
                             const std::vector<int64_t>& shape, const std::vector<float>& values) {
  add_encoded_tensor(name, type, shape, encode(type, values));
}

void GgufBuilder::add_raw_tensor(const std::string& name, const std::vector<uint64_t>& extents,
                                 uint32_t ggml_type, std::optional<uint64_t> offset,
                                 const std::string& data) {
  tensors_.push_back({name, extents, ggml_type, offset, data});
}

std::string GgufBuilder::bytes() const {
  std::string out = "GGUF" + scalar_bytes(version) +
                    scalar_bytes<uint64_t>(claimed_tensors.value_or(tensors_.size())) +
                    scalar_bytes<uint64_t>(claimed_values.value_or(values_.size()));
  for (const Value& value : values_) {
    out += string_bytes(value.key) + scalar_bytes(value.type) + value.bytes;
  }
  const auto pad = [this](std::string* text) {
    text->resize((text->size() + alignment - 1) / alignment * alignment, '\0');
  };
  std::string data;
  for (const Tensor& tensor : tensors_) {
    pad(&data);
    out += string_bytes(tensor.name) + scalar_bytes(static_cast<uint32_t>(tensor.extents.size()));
    for (const uint64_t extent : tensor.extents) out += scalar_bytes(extent);
    out += scalar_bytes(tensor.type) + scalar_bytes<uint64_t>(tensor.offset.value_or(data.size()));
    data += tensor.data;
  }
  pad(&out);
  return out + data;
}

void GgufBuilder::write(const std::filesystem::path& path) const { write_file(path, bytes()); }

}  // namespace quarry::test
