#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// LoRA weights of one Linear (Hu et al. 2021, arXiv:2106.09685):  y += scale * B (A x).
struct LoraWeights {
  std::vector<float> a;  // [rank, in_features]
  std::vector<float> b;  // [out_features, rank]
  int64_t rank = 0;
  float scale = 1.0f;  // alpha / r, or alpha / sqrt(r) with rsLoRA

  // a and scale * b as kernels::matmul wants them, in float32. LoraAdapter::load calls pack().
  std::shared_ptr<const kernels::PackedMatrix> packed_a;  // [rank, in_features]
  std::shared_ptr<const kernels::PackedMatrix> packed_b;  // [out_features, rank]
  // REQUIRES: a, b, rank and scale are set.
  void pack();
};

// A PEFT LoRA adapter read from its folder (adapter_config.json + adapter_model.safetensors) and
// checked against a model's linear slots, or made for training. Immutable while anybody runs it.
class LoraAdapter {
 public:
  LoraAdapter() = default;
  // By Hugging Face module path; every pair packed.
  explicit LoraAdapter(std::map<std::string, LoraWeights> weights) : weights_(std::move(weights)) {}
  // Throws kNotFound, kCorruptData; kInvalidArgument naming a configuration key that changes the
  // maths and is not supported, a target that the model lacks or a shape that does not fit.
  static std::unique_ptr<LoraAdapter> load(const std::filesystem::path& folder,
                                           const std::vector<CausalLm::LinearSlot>& slots);

  // Null when the adapter leaves that Linear alone.
  const LoraWeights* find(const std::string& linear_path) const;
  const std::map<std::string, LoraWeights>& weights() const { return weights_; }
  // For training: pack() what was changed before the adapter runs again.
  std::map<std::string, LoraWeights>& mutable_weights() { return weights_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  std::map<std::string, LoraWeights> weights_;  // by Hugging Face module path
  std::vector<std::string> warnings_;           // unknown keys that were ignored
};

}  // namespace quarry
