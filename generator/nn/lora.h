#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "generator/kernels/low_rank_pair.h"
#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"

namespace quarry {

class LoraConfig;

// LoRA weights of one Linear (Hu et al. 2021, arXiv:2106.09685):  y += scale * B (A x).
struct LoraWeights {
  std::vector<float> a;  // [rank, in_features]
  std::vector<float> b;  // [out_features, rank]
  int64_t rank = 0;
  float scale = 1.0f;  // alpha / r, or alpha / sqrt(r) with rsLoRA

  // a as kernels::matmul wants it and scale * b as kernels::gemm does, in float32.
  // LoraAdapter::load calls pack().
  std::shared_ptr<const kernels::PackedMatrix> packed_a;  // [rank, in_features]
  std::vector<float> scaled_b;                            // [rank, out_features]
  // REQUIRES: a, b, rank and scale are set.
  void pack();
  // The pair as it runs beside a product with packed weights: made when it is first asked for, from
  // any thread, and kept.
  std::shared_ptr<const kernels::LowRankPair> beside(const kernels::LowRankForm& form) const;

  // While training from PiSSA (Meng et al. 2024, arXiv:2404.02948): the pair where it started, with
  // this rank and scale, whose update is taken off again: y -= scale B0 (A0 x). So the base stays
  // as it is. Null: nothing is taken off.
  std::shared_ptr<const LoraWeights> start;

 private:
  mutable std::shared_ptr<const kernels::LowRankPair> beside_;
};

// The same update without `start`: A' = [A; A0], B' = [B, -B0], of twice the rank.
LoraWeights to_plain_lora(const LoraWeights& weights);

// A parameter that an adapter has whole, in place of the model's: of a module in modules_to_save,
// or a trained bias.
struct FullTensor {
  std::vector<int64_t> shape;  // as CausalLm::TensorSlot
  CausalLm::TensorSlot::Use use = CausalLm::TensorSlot::Use::kLinear;
  std::vector<float> values;  // row-major
  // Of a kLinear, as kernels::matmul wants it, in float32. LoraAdapter::load calls pack().
  std::shared_ptr<const kernels::PackedMatrix> packed;
  // REQUIRES: the other members are set.
  void pack();
};

// A PEFT LoRA adapter read from its folder (adapter_config.json + adapter_model.safetensors) and
// checked against a model's slots, or made for training. Immutable while anybody runs it.
class LoraAdapter {
 public:
  LoraAdapter() = default;
  // By Hugging Face module path, and by name of the parameter; all packed.
  explicit LoraAdapter(std::map<std::string, LoraWeights> weights,
                       std::map<std::string, FullTensor> full = {})
      : weights_(std::move(weights)), full_(std::move(full)) {}
  // Throws kNotFound, kCorruptData; kInvalidArgument naming a configuration key that changes the
  // maths and is not supported, a target that the model lacks or a shape that does not fit.
  static std::unique_ptr<LoraAdapter> load(const std::filesystem::path& folder,
                                           const std::vector<CausalLm::LinearSlot>& slots,
                                           const std::vector<CausalLm::TensorSlot>& tensors);
  static std::unique_ptr<LoraAdapter> load(const std::filesystem::path& folder,
                                           const CausalLm& model) {
    return load(folder, model.linear_slots(), model.tensor_slots());
  }

  // Null when the adapter leaves that Linear alone.
  const LoraWeights* find(const std::string& linear_path) const;
  const std::map<std::string, LoraWeights>& weights() const { return weights_; }
  // For training: pack() what was changed before the adapter runs again.
  std::map<std::string, LoraWeights>& mutable_weights() { return weights_; }

  // Null when the model's own parameter counts.
  const FullTensor* find_full(const std::string& name) const {
    if (full_.empty()) return nullptr;
    const auto it = full_.find(name);
    return it == full_.end() ? nullptr : &it->second;
  }
  const std::map<std::string, FullTensor>& full() const { return full_; }
  std::map<std::string, FullTensor>& mutable_full() { return full_; }

  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  std::map<std::string, LoraWeights> weights_;
  std::map<std::string, FullTensor> full_;
  std::vector<std::string> warnings_;  // unknown keys that were ignored
};

// Throws kInvalidArgument when modules_to_save selects a Linear that target_modules adapts too.
void check_disjoint(const LoraConfig& config, const std::vector<CausalLm::LinearSlot>& slots);

}  // namespace quarry
