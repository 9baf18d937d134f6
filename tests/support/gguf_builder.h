#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "generator/weights/gguf_format.h"

namespace quarry::test {

// Builds the bytes of a GGUF file, sound or deliberately broken. One thread.
class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the bytes; set_uint32("general.alignment") announces another
  std::optional<uint64_t> claimed_tensors;  // instead of the true counts
  std::optional<uint64_t> claimed_values;

  void set_string(const std::string& key, const std::string& value);
  void set_uint32(const std::string& key, uint32_t value);
  void set_float(const std::string& key, float value);
  void set_bool(const std::string& key, bool value);
  void set_strings(const std::string& key, const std::vector<std::string>& values);
  void set_floats(const std::string& key, const std::vector<float>& values);
  void set_int32s(const std::string& key, const std::vector<int32_t>& values);
  // A value's bytes as they lie after the type number.
  void set_raw(const std::string& key, uint32_t value_type, const std::string& bytes);

  // `shape` outermost first. `data` are the encoded bytes.
  void add_encoded_tensor(const std::string& name, WeightType type,
                          const std::vector<int64_t>& shape, const std::string& data);
  // Encodes float32 values as `type` (dense, Q4_0, Q4_1 or Q8_0).
  void add_tensor(const std::string& name, WeightType type, const std::vector<int64_t>& shape,
                  const std::vector<float>& values);
  // A tensor as the file would describe it: extents innermost first, any type, any offset.
  void add_raw_tensor(const std::string& name, const std::vector<uint64_t>& extents,
                      uint32_t ggml_type, std::optional<uint64_t> offset, const std::string& data);

  std::string bytes() const;
  void write(const std::filesystem::path& path) const;

 private:
  struct Value {
    std::string key;
    uint32_t type;
    std::string bytes;
  };
  struct Tensor {
    std::string name;
    std::vector<uint64_t> extents;
    uint32_t type;
    std::optional<uint64_t> offset;
    std::string data;
  };
  std::vector<Value> values_;
  std::vector<Tensor> tensors_;
};

// Little-endian bytes of a scalar, and of a GGUF string.
template <typename T>
std::string scalar_bytes(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string string_bytes(const std::string& text);

// Plain quantizers for test data: nearest value, no search for better scales.
std::string encode(WeightType type, const std::vector<float>& values);

void write_file(const std::filesystem::path& path, const std::string& bytes);
// Changes one byte of a file in place.
void overwrite_byte(const std::filesystem::path& path, size_t position, char value);

}  // namespace quarry::test
