#include "generator/weights/gguf_writer.h"

#include <algorithm>
#include <cstring>

#include "data/core/atomic_file.h"
#include "data/core/error.h"
#include "generator/weights/printable.h"

namespace quarry {

using gguf::ValueType;

namespace {

template <typename T>
void put(std::string& out, T value) {
  static_assert(sizeof(bool) == 1, "GGUF stores bools as one byte");
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void put_string(std::string& out, const std::string& text) {
  put(out, static_cast<uint64_t>(text.size()));
  out += text;
}

template <typename T>
std::string scalar(T value) {
  std::string out;
  put(out, value);
  return out;
}

std::string array_header(ValueType element_type, size_t count) {
  std::string out;
  put(out, static_cast<uint32_t>(element_type));
  put(out, static_cast<uint64_t>(count));
  return out;
}

int64_t tensor_bytes(const TensorToWrite& tensor) {
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= extent;
  return weight_bytes(tensor.type, count);
}

uint64_t padded(uint64_t size, uint64_t alignment) {
  return (size + alignment - 1) / alignment * alignment;
}

}  // namespace

void GgufWriter::set_encoded(const std::string& key, const std::string& type_and_value) {
  if (values_.count(key) == 0) keys_.push_back(key);
  values_[key] = type_and_value;
}

void GgufWriter::set(const std::string& key, ValueType type, const std::string& bytes) {
  set_encoded(key, scalar(static_cast<uint32_t>(type)) + bytes);
}

void GgufWriter::set_string(const std::string& key, const std::string& value) {
  std::string bytes;
  put_string(bytes, value);
  set(key, ValueType::kString, bytes);
}

void GgufWriter::set_bool(const std::string& key, bool value) {
  set(key, ValueType::kBool, scalar(value));
}

void GgufWriter::set_uint32(const std::string& key, uint32_t value) {
  set(key, ValueType::kUint32, scalar(value));
}

void GgufWriter::set_int32(const std::string& key, int32_t value) {
  set(key, ValueType::kInt32, scalar(value));
}

void GgufWriter::set_uint64(const std::string& key, uint64_t value) {
  set(key, ValueType::kUint64, scalar(value));
}

void GgufWriter::set_float(const std::string& key, float value) {
  set(key, ValueType::kFloat32, scalar(value));
}

void GgufWriter::set_strings(const std::string& key, const std::vector<std::string>& values) {
  std::string bytes = array_header(ValueType::kString, values.size());
  for (const std::string& value : values) put_string(bytes, value);
  set(key, ValueType::kArray, bytes);
}

void GgufWriter::set_floats(const std::string& key, const std::vector<float>& values) {
  std::string bytes = array_header(ValueType::kFloat32, values.size());
  for (const float value : values) put(bytes, value);
  set(key, ValueType::kArray, bytes);
}

void GgufWriter::set_int32s(const std::string& key, const std::vector<int32_t>& values) {
  std::string bytes = array_header(ValueType::kInt32, values.size());
  for (const int32_t value : values) put(bytes, value);
  set(key, ValueType::kArray, bytes);
}

void GgufWriter::copy_metadata(const GgufFile& file) {
  for (const std::string& key : file.keys()) set_encoded(key, std::string(file.get_raw(key)));
}

void GgufWriter::add_tensor(TensorToWrite tensor) {
  QUARRY_CHECK(tensor_names_.insert(tensor.name).second, ErrorCode::kInvalidArgument,
               "tensor name ", printable(tensor.name), " is taken");
  QUARRY_CHECK(!tensor.shape.empty() && tensor.shape.size() <= gguf::kMaxDimensions &&
                   std::all_of(tensor.shape.begin(), tensor.shape.end(),
                               [](int64_t extent) { return extent > 0; }),
               ErrorCode::kInvalidArgument, "tensor ", printable(tensor.name),
               " has a shape that GGUF cannot hold: ", tensor.shape.size(),
               " extents, wanted 1 to 4 positive ones");
  const WeightTypeTraits& traits = weight_type_traits(tensor.type);
  QUARRY_CHECK(tensor.shape.back() % traits.block_size == 0, ErrorCode::kInvalidArgument, "tensor ",
               printable(tensor.name), " has rows of ", tensor.shape.back(),
               " elements, not a multiple of ", traits.name, "'s block of ", traits.block_size);
  tensors_.push_back(std::move(tensor));
}

uint64_t GgufWriter::alignment() const {
  const auto it = values_.find("general.alignment");
  if (it == values_.end() || it->second.size() != 2 * sizeof(uint32_t)) {
    return gguf::kDefaultAlignment;
  }
  uint32_t value = 0;
  std::memcpy(&value, it->second.data() + sizeof(uint32_t), sizeof(value));
  return value;
}

// All before the tensor data, padded.
std::string GgufWriter::header() const {
  std::string out;
  put(out, gguf::kMagic);
  put(out, gguf::kNewestVersion);
  put(out, static_cast<uint64_t>(tensors_.size()));
  put(out, static_cast<uint64_t>(keys_.size()));
  for (const std::string& key : keys_) {
    put_string(out, key);
    out += values_.at(key);
  }
  uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors_) {
    put_string(out, tensor.name);
    put(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) {
      put(out, static_cast<uint64_t>(*extent));
    }
    put(out, gguf::ggml_type(tensor.type));
    put(out, offset);
    offset = padded(offset + static_cast<uint64_t>(tensor_bytes(tensor)), alignment());
  }
  out.resize(padded(out.size(), alignment()), '\0');
  return out;
}

void GgufWriter::write(const std::filesystem::path& path) const {
  AtomicFile file(path);
  const std::string begin = header();
  file.write(begin.data(), begin.size());
  for (const TensorToWrite& tensor : tensors_) {
    write_tensor_data(tensor, file);
    const auto bytes = static_cast<uint64_t>(tensor_bytes(tensor));
    const std::string padding(padded(bytes, alignment()) - bytes, '\0');
    file.write(padding.data(), padding.size());
  }
  file.commit();
}

}  // namespace quarry
