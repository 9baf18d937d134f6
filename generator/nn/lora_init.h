#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"

namespace quarry {

struct LoraInitOptions {
  // "true", "false", "gaussian" as the other create_adapter (generator/nn/lora_training.h), or from
  // a singular value decomposition U S V^T cut to rank r, with s B A = U S V^T:
  // "pissa" (Meng et al. 2024, arXiv:2404.02948) of the weight: its largest directions are trained,
  // and LoraWeights::start takes them off the base; "pissa_niter_N" the same, approximately (Halko
  // et al. 2009, arXiv:0909.4061) with N power iterations, much faster; "loftq" (Li et al. 2023,
  // arXiv:2310.08659), one iteration, of the dense weight less the quantized one: the adapter
  // starts by making up for the error of the base.
  std::string init_lora_weights = "true";
  std::filesystem::path loftq_weights;  // folder or file of the dense weights, safetensors
  uint64_t seed = 1;
};

// A new adapter for `model`: a pair for each Linear that `config` targets and a copy of every
// parameter that it replaces. Throws kInvalidArgument: targets or an entry of modules_to_save that
// match nothing, a rank beyond a Linear's sizes, a base that loses nothing against the dense
// weights; kNotFound, kCorruptData for the dense weights.
std::unique_ptr<LoraAdapter> create_adapter(const LoraConfig& config, const CausalLm& model,
                                            const LoraInitOptions& options);

}  // namespace quarry
