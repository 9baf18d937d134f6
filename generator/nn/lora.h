#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
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
  // The pair as it runs beside a product with packed weights.
  kernels::LowRankPair beside(const kernels::LowRankForm& form) const;

  // While training from PiSSA (Meng et al. 2024, arXiv:2404.02948): the pair where it started, with
  // this rank and scale, whose update is taken off again: y -= scale B0 (A0 x). So the base stays
  // as it is. Null: nothing is taken off.
  std::shared_ptr<const LoraWeights> start;
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

// What one Linear adds of an adapter beside its products (kernels::matmul_group), for all rows.
struct LinearUpdates {
  bool is_beside = false;  // false: the adapter wants products of its own there
  std::vector<kernels::LowRankUpdate> updates;
  std::vector<kernels::LowRankPair> pairs;  // of the updates
};

// Whether a caller can run activated LoRA: LoraAdapter::invocation_tokens().
enum class ActivatedLora { kRefuse, kAccept };

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
                                           const std::vector<CausalLm::TensorSlot>& tensors,
                                           ActivatedLora activated = ActivatedLora::kRefuse);
  static std::unique_ptr<LoraAdapter> load(const std::filesystem::path& folder,
                                           const CausalLm& model,
                                           ActivatedLora activated = ActivatedLora::kRefuse) {
    return load(folder, model.linear_slots(), model.tensor_slots(), activated);
  }

  // Null when the adapter leaves that Linear alone.
  const LoraWeights* find(const std::string& linear_path) const;
  const std::map<std::string, LoraWeights>& weights() const { return weights_; }
  // For training: pack() what was changed before the adapter runs again. Ask anew for each change:
  // what was made of the adapter so far is dropped here, as in mutable_full().
  std::map<std::string, LoraWeights>& mutable_weights() {
    drop_made();
    return weights_;
  }

  // The updates of the Linear with this number: made when they are first asked for, from any
  // thread, and kept until a mutable_...(). A step asks hundreds of times.
  const LinearUpdates& updates_at(size_t linear_number,
                                  const std::function<LinearUpdates()>& make) const;

  // The adapter as a device has it, by what `make` returns: made when it is first asked for, from
  // any thread, and kept until a mutable_...().
  std::shared_ptr<const void> on_device(
      const std::function<std::shared_ptr<const void>()>& make) const;

  // Null when the model's own parameter counts.
  const FullTensor* find_full(const std::string& name) const {
    if (full_.empty()) return nullptr;
    const auto it = full_.find(name);
    return it == full_.end() ? nullptr : &it->second;
  }
  const std::map<std::string, FullTensor>& full() const { return full_; }
  std::map<std::string, FullTensor>& mutable_full() {
    drop_made();
    return full_;
  }

  // Of an activated LoRA (Greenewald et al. 2025, arXiv:2504.12397): it acts from the beginning of
  // their last occurrence in the prompt on, and not at all where they do not occur, so that keys
  // and values before are the base model's. Empty: acts on every token.
  const std::vector<int32_t>& invocation_tokens() const { return invocation_tokens_; }

  const std::vector<std::string>& warnings() const { return warnings_; }

  // SHA-256 over all that it computes with: adapters of the same hash compute the same.
  std::string content_hash() const;

 private:
  void drop_made() {
    std::atomic_store(&on_device_, std::shared_ptr<const void>());
    updates_ = std::make_shared<UpdatesByLinear>();
  }

  std::map<std::string, LoraWeights> weights_;
  std::map<std::string, FullTensor> full_;
  std::vector<int32_t> invocation_tokens_;
  mutable std::shared_ptr<const void> on_device_;
  struct UpdatesByLinear {
    std::mutex mutex;
    std::vector<std::unique_ptr<const LinearUpdates>> made;  // by the Linear's number
  };
  std::shared_ptr<UpdatesByLinear> updates_ = std::make_shared<UpdatesByLinear>();
  std::vector<std::string> warnings_;  // unknown keys that were ignored
};

// The adapter as a sequence sees it: which of its positions run with it.
class AdapterReach {
 public:
  // `adapter` is borrowed and may be null: the base model.
  AdapterReach(const LoraAdapter* adapter, const std::vector<int32_t>& prompt);

  // The first position that runs with the adapter; kNever: none does.
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  int64_t begin() const { return begin_; }
  const LoraAdapter* at(int64_t position) const { return position < begin_ ? nullptr : adapter_; }
  // `num_tokens` from `position` on, cut where the adapter begins: these run with at(position).
  int64_t cut(int64_t position, int64_t num_tokens) const {
    return position < begin_ && begin_ - position < num_tokens ? begin_ - position : num_tokens;
  }

 private:
  const LoraAdapter* adapter_;
  int64_t begin_ = 0;
};

// Throws kInvalidArgument when modules_to_save selects a Linear that target_modules adapts too.
void check_disjoint(const LoraConfig& config, const std::vector<CausalLm::LinearSlot>& slots);

}  // namespace quarry
