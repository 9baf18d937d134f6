#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/models/families.h"
#include "generator/weights/model_catalog.h"

namespace quarry {

// A generator's file or folder, opened for its tensors without making a model of it. Immutable.
class ModelFile {
 public:
  // Throws as load_generator does.
  static std::unique_ptr<ModelFile> open(const ModelLocation& location);

  const ModelLocation& location() const { return location_; }
  const CausalLmFamily& family() const { return *family_; }
  // For the functions of the family. Borrows.
  CausalLmSource source() const;
  const TensorSource& tensors() const { return *tensors_; }
  const GgufFile* gguf() const { return gguf_; }        // null: a Hugging Face folder
  const Json* config() const { return config_.get(); }  // config.json; null: a GGUF
  const ModelLayout& layout() const { return layout_; }
  const std::vector<CausalLm::LinearSlot>& slots() const { return slots_; }
  // As CausalLm::tensor_slots().
  const std::vector<CausalLm::TensorSlot>& tensor_slots() const { return tensor_slots_; }

  // The name that a tensor has in this file.
  const std::string& stored_name(const ModelTensor& tensor) const;
  // Whether this file holds the weight of a Linear as [in, out].
  bool stores_transposed(const ModelTensor& tensor, const TensorView& view) const;
  // Throws kCorruptData when it is absent or has another shape than [out, in], or [in, out] where
  // the file holds it so.
  const TensorView& weight(const ModelLayout::Linear& linear) const;
  // Parameters as PEFT counts them: what a tied head shares counts once, tables of rotary
  // frequencies not at all.
  int64_t num_parameters() const;

 private:
  ModelFile() = default;
  void list_tensors();

  ModelLocation location_;
  const CausalLmFamily* family_ = nullptr;
  std::unique_ptr<TensorSource> tensors_;
  const GgufFile* gguf_ = nullptr;  // into tensors_
  std::unique_ptr<const Json> config_;
  ModelLayout layout_;
  std::vector<CausalLm::LinearSlot> slots_;
  std::vector<CausalLm::TensorSlot> tensor_slots_;
};

}  // namespace quarry
