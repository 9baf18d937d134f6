#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "generator/weights/gguf_file.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {

// Writes one GGUF file, version 3, little-endian: models and adapters. Format: gguf_format.h.
// Setting a key again replaces its value and keeps its place. One thread.
class GgufWriter {
 public:
  void set_string(const std::string& key, const std::string& value);
  void set_bool(const std::string& key, bool value);
  void set_uint32(const std::string& key, uint32_t value);
  void set_int32(const std::string& key, int32_t value);
  void set_uint64(const std::string& key, uint64_t value);
  void set_float(const std::string& key, float value);
  void set_strings(const std::string& key, const std::vector<std::string>& values);
  void set_floats(const std::string& key, const std::vector<float>& values);
  void set_int32s(const std::string& key, const std::vector<int32_t>& values);
  // Every key of a file, as it lies there.
  void copy_metadata(const GgufFile& file);

  // Shapes are outermost first, as everywhere here; 1 to 4 extents. What `tensor` borrows has to
  // live until write(). Throws kInvalidArgument for a name that is taken or a shape that GGUF
  // cannot hold (rows that are not whole blocks).
  void add_tensor(TensorToWrite tensor);

  // Atomic. Throws kUnavailable when the disk refuses; kInvalidArgument when a tensor's make_data
  // gives another size than its shape asks for.
  void write(const std::filesystem::path& path) const;

 private:
  void set(const std::string& key, gguf::ValueType type, const std::string& bytes);
  void set_encoded(const std::string& key, const std::string& type_and_value);
  uint64_t alignment() const;
  std::string header() const;

  std::vector<std::string> keys_;
  std::map<std::string, std::string> values_;  // type number and value as in the file
  std::vector<TensorToWrite> tensors_;
  std::set<std::string> tensor_names_;
};

}  // namespace quarry
