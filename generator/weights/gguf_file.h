#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/core/mapped_file.h"
#include "generator/weights/gguf_format.h"
#include "generator/weights/tensor_source.h"

namespace quarry {

// A GGUF file (versions 2 and 3, little-endian), mapped read-only. Everything the header claims is
// checked when it is opened; reading a tensor later cannot leave the file. Immutable.
//
// Metadata: find_x(key) gives nullopt when the key is absent, get_x(key) throws kCorruptData then.
// Both throw kCorruptData, naming the key, the type found and the type wanted, when the value has
// another type or does not fit. Integers of any width and signedness serve find_int, floats of both
// widths and integers serve find_float.
class GgufFile : public TensorSource {
 public:
  // Throws kNotFound; kCorruptData for anything that is not a whole, consistent GGUF file;
  // kInvalidArgument for a GGUF that is sound but that we cannot use (version 1, big-endian, one
  // part of a split model, a tensor type that we do not decode), naming what.
  static std::unique_ptr<GgufFile> open(const std::filesystem::path& path);

  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<std::string>& keys() const { return keys_; }  // in file order
  bool has(const std::string& key) const { return values_.count(key) != 0; }

  std::optional<std::string> find_string(const std::string& key) const;
  std::optional<int64_t> find_int(const std::string& key) const;
  std::optional<double> find_float(const std::string& key) const;
  std::optional<bool> find_bool(const std::string& key) const;
  std::optional<std::vector<std::string>> find_strings(const std::string& key) const;
  std::optional<std::vector<int64_t>> find_ints(const std::string& key) const;
  std::optional<std::vector<float>> find_floats(const std::string& key) const;
  // Elements of an array of any type.
  std::optional<int64_t> find_array_size(const std::string& key) const;
  // A value as it lies in the file, with the number of its type before it; for copying. Throws
  // kCorruptData when the key is absent.
  std::string_view get_raw(const std::string& key) const;

  std::string get_string(const std::string& key) const;
  int64_t get_int(const std::string& key) const;
  double get_float(const std::string& key) const;
  std::vector<std::string> get_strings(const std::string& key) const;

  const TensorView* find(const std::string& name) const override;
  const TensorView& get(const std::string& name) const override;
  const std::vector<TensorView>& tensors() const override { return tensors_; }
  const std::string& description() const override { return description_; }
  void forget(const TensorView& tensor) const override {
    file_.forget(tensor.data, static_cast<size_t>(tensor.bytes));
  }

 private:
  struct Value {
    gguf::ValueType type;
    gguf::ValueType element_type;  // of an array, else equal to type
    uint64_t count;                // of an array, else 1
    uint64_t offset;               // of the first element in the file
    uint64_t begin;                // of the type number before it
    uint64_t end;
  };
  class Cursor;  // bounds-checked reading of the header

  explicit GgufFile(const std::filesystem::path& path);
  void read_header();
  void read_metadata(Cursor& cursor);
  void read_tensor_list(Cursor& cursor, uint64_t count);
  void place_tensors(uint64_t data_begin);
  const Value* find_value(const std::string& key) const;
  [[noreturn]] void throw_type(const std::string& key, const Value& value,
                               const char* wanted) const;
  [[noreturn]] void throw_missing(const std::string& key, const char* wanted) const;
  template <typename T>
  T load(uint64_t offset) const;
  std::optional<int64_t> load_int(const std::string& key, gguf::ValueType type,
                                  uint64_t offset) const;

  MappedFile file_;
  std::string description_;
  uint32_t version_ = 0;
  uint64_t alignment_ = gguf::kDefaultAlignment;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, Value> values_;
  std::vector<TensorView> tensors_;
  std::vector<uint64_t> tensor_offsets_;  // into the data section; emptied once placed
  std::unordered_map<std::string, size_t> tensor_index_;
};

}  // namespace quarry
