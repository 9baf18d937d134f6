#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "generator/models/families.h"
#include "generator/nn/embedding.h"
#include "generator/nn/head_norm.h"
#include "generator/nn/layer_norm.h"
#include "generator/nn/linear.h"
#include "generator/nn/rms_norm.h"

namespace quarry {

// The weights of a model and what adapters may do to them. Addresses stay. Immutable once loaded.
struct DecoderModules {
  kernels::Precision precision = kernels::Precision::kExact;
  std::deque<nn::Linear> linears;
  std::deque<nn::RmsNorm> rms_norms;
  std::deque<nn::LayerNorm> layer_norms;
  std::deque<nn::Embedding> embeddings;               // the first: of tokens
  std::shared_ptr<const kernels::PackedMatrix> head;  // [V, width of the token embedding]
  std::string head_weight;                            // "lm_head.weight"
  std::vector<float> head_bias;                       // [V], or empty
  std::vector<CausalLm::LinearSlot> slots;
  std::vector<CausalLm::TensorSlot> tensor_slots;
  std::map<std::string, std::function<std::vector<float>()>> tensor_values;  // by slot
};

// Makes the modules of a model by their Hugging Face paths, from either kind of file, and lists
// them for adapters. Throws kCorruptData for a tensor that is missing or has another shape.
class DecoderLoader {
 public:
  // Reads the token embedding and the head. All is borrowed while the loader lives.
  DecoderLoader(const CausalLmSource& source, const ModelLayout& layout,
                kernels::Precision precision);

  // Projections of one input, side by side.
  const nn::Linear& linear(const std::vector<std::string>& paths);
  // Weights that count `offset` more than what Hugging Face stores.
  const nn::RmsNorm& rms_norm(const std::string& path, double epsilon, float offset = 0.0f);
  const nn::LayerNorm& layer_norm(const std::string& path, double epsilon);
  // A table that no adapter replaces (positions).
  const nn::Embedding& table(const std::string& path);

  std::shared_ptr<const DecoderModules> modules() const { return modules_; }

 private:
  const ModelTensor& find(const std::string& name) const;
  const std::string& stored_name(const ModelTensor& tensor) const;
  // Null when the tensor is optional and not there.
  const TensorView* view(const ModelTensor& tensor) const;
  // [width], without what GGUF adds to the values.
  at::Tensor vector(const std::string& name) const;
  void load_tables();
  void list_linear(const nn::Linear& linear);
  void list(const std::string& name, std::vector<int64_t> shape, CausalLm::TensorSlot::Use use,
            std::function<std::vector<float>()> values);

  const CausalLmSource& source_;
  const ModelLayout& layout_;
  std::map<std::string, const ModelTensor*> tensors_;  // by hf_name
  std::shared_ptr<DecoderModules> modules_ = std::make_shared<DecoderModules>();
};

}  // namespace quarry
