#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/core/atomic_file.h"
#include "data/core/mapped_file.h"
#include "generator/weights/tensor_source.h"

namespace quarry {

// Tensors of one .safetensors file or of the shards of a model.safetensors.index.json, mapped
// read-only. Format (https://github.com/huggingface/safetensors): uint64 header length n, n bytes
// of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {..}}, data.
//
// Everything the headers claim is checked when the file is opened. Bytes after the last tensor are
// tolerated (known checkpoints have them); gaps and overlaps are not. A dtype without a WeightType
// (F64, BOOL, F8 ...) does not spoil a file that merely contains it: find() and get() of such
// a tensor throw kInvalidArgument naming the dtype, and tensors() leaves it out. Immutable.
class SafetensorsFile : public TensorSource {
 public:
  // `path` is a .safetensors file, an index .json, or a folder that holds model.safetensors or
  // model.safetensors.index.json. Throws kNotFound (also for a missing shard), kCorruptData.
  static std::unique_ptr<SafetensorsFile> open(const std::filesystem::path& path);

  const TensorView* find(const std::string& name) const override;
  const TensorView& get(const std::string& name) const override;
  const std::vector<TensorView>& tensors() const override { return tensors_; }
  const std::string& description() const override { return description_; }
  void forget(const TensorView& tensor) const override;

  // "__metadata__" of all shards; the first shard wins.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Tensors whose dtype we do not read: name -> dtype.
  const std::map<std::string, std::string>& unreadable() const { return unreadable_; }
  int64_t num_files() const { return static_cast<int64_t>(files_.size()); }

 private:
  SafetensorsFile() = default;
  // Adds the tensors of one file and returns their names.
  std::vector<std::string> add_file(const std::filesystem::path& path);
  void open_index(const std::filesystem::path& path);

  std::string description_;
  std::vector<MappedFile> files_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, size_t> tensor_index_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, std::string> unreadable_;
};

// A tensor to be written; the data is borrowed and must match type and shape.
struct TensorToWrite {
  std::string name;
  WeightType type = WeightType::kF32;  // safetensors: a dense type
  std::vector<int64_t> shape;
  const void* data = nullptr;
  // Called for the bytes when their turn comes, instead of `data`, so that a large file can be
  // written with one tensor in memory.
  std::function<std::string()> make_data = nullptr;
};

// The bytes of a tensor. Throws kInvalidArgument when make_data gives another size than type and
// shape ask for.
void write_tensor_data(const TensorToWrite& tensor, AtomicFile& file);

// Writes one .safetensors file atomically, as Python's safetensors lays it out: widest dtype first,
// then by name; header padded with spaces to 8 bytes. Throws kInvalidArgument for a block-quantized
// type, a duplicate name or a negative extent; kUnavailable when the disk refuses.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       FileAccess access = FileAccess::kAll);

}  // namespace quarry
