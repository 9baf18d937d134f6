#pragma once

#include <memory>
#include <string>
#include <vector>

#include "finetune/config.h"
#include "finetune/estimate.h"
#include "finetune/state_tensor.h"
#include "finetune/trainer.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"

namespace quarry {

// What is trained and what PEFT calls it.
struct RunAdapter {
  std::unique_ptr<LoraConfig> config;
  std::unique_ptr<LoraAdapter> adapter;
};
// The adapter of adapter.start_from, else a fresh one. Throws as LoraAdapter::load, create_adapter.
RunAdapter make_adapter(const FinetuneConfig& config, const LoadedGenerator& base);
// What the memory of a run depends on, `batch` being one like all of its batches: the largest pass
// of that counts.
TrainingShape training_shape(const FinetuneConfig& config, const LoadedGenerator& base,
                             const RunAdapter& adapter, const std::vector<TrainingSequence>& batch);
// Something about the run that its user should know, a line each.
std::vector<std::string> adapter_notices(const LoadedGenerator& base, const LoraAdapter& adapter);
// What a checkpoint keeps of the adapter, and back. Throws kCorruptData, naming `source`, when a
// parameter is missing or has another size.
std::vector<StateTensor> save_parameters(Trainer& trainer, const LoraAdapter& adapter);
void restore_parameters(const std::vector<StateTensor>& state, const std::string& source,
                        Trainer& trainer, LoraAdapter& adapter);

}  // namespace quarry
