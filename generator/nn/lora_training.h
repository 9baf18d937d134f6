#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "generator/nn/lora.h"

namespace quarry {

class LoraConfig;

// Where a backward pass adds the gradients of an adapter's parameters, and the dropout that
// training puts before A. One thread.
class LoraGradients {
 public:
  struct Pair {
    std::vector<float> a;  // as LoraWeights::a
    std::vector<float> b;  // as LoraWeights::b
  };
  // Zero gradients for all that the adapter has.
  explicit LoraGradients(const LoraAdapter& adapter);

  // REQUIRES: the adapter changes that Linear.
  Pair& at(const std::string& linear_path);
  std::map<std::string, Pair>& pairs() { return pairs_; }
  // Of a FullTensor, as its values. REQUIRES: the adapter has it.
  std::vector<float>& full_at(const std::string& name);
  std::map<std::string, std::vector<float>>& full() { return full_; }
  void zero();

  // Each element of A's input becomes 0 with this probability, and the others grow accordingly. The
  // choice depends on the seed, the Linear and the element only, so that a pass computed again
  // (checkpointing) drops the same ones: give every batch a seed of its own.
  void set_dropout(float probability, uint64_t seed);
  float dropout() const { return dropout_; }
  // Drops elements of x [rows, width], contiguous, in place.
  void drop(const std::string& linear_path, int64_t rows, int64_t width, float* x) const;

 private:
  std::map<std::string, Pair> pairs_;
  std::map<std::string, std::vector<float>> full_;
  float dropout_ = 0.0f;
  uint64_t seed_ = 0;
};

// New pairs for the Linears that `config` targets. B is 0 and A as `init_lora_weights` says: "true"
// draws from U(-1 / sqrt(in), 1 / sqrt(in)) (Kaiming with a = sqrt(5), PEFT's default), "gaussian"
// from N(0, 1 / r^2). "false" draws both as PyTorch does for a Linear: A as "true", B from
// U(-1 / sqrt(r), 1 / sqrt(r)). The same seed gives the same adapter. Throws kInvalidArgument when
// the targets match nothing, or for another init (generator/nn/lora_init.h has those).
std::unique_ptr<LoraAdapter> create_adapter(const LoraConfig& config,
                                            const std::vector<CausalLm::LinearSlot>& slots,
                                            const std::string& init_lora_weights, uint64_t seed);

}  // namespace quarry
