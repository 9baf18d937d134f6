#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "finetune/config.h"
#include "finetune/estimate.h"
#include "finetune/recipe.h"
#include "finetune/state_tensor.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"

namespace quarry {

// What is trained and what PEFT calls it.
struct RunAdapter {
  std::unique_ptr<LoraConfig> config;
  std::shared_ptr<LoraAdapter> adapter;
};
// The settings with PEFT's targets for the family where adapter.target_modules is "default". Throws
// kInvalidArgument when the model has none of them.
LoraSettings adapter_settings(const AdapterOptions& options,
                              const std::vector<CausalLm::LinearSlot>& slots);
// The adapter of adapter.start_from, else a fresh one. Throws as LoraAdapter::load, create_adapter.
RunAdapter make_adapter(const FinetuneConfig& config, const LoadedGenerator& base);
// What the memory of a run depends on, `batch` being one like all of its batches: the largest pass
// of that counts. There may be no adapter.
TrainingShape training_shape(const FinetuneConfig& config, const LoadedGenerator& base,
                             const RunAdapter& adapter, const std::vector<TrainingSequence>& batch);
// Something about the run that its user should know, a line each.
std::vector<std::string> adapter_notices(const LoadedGenerator& base, const LoraAdapter& adapter);
// What a checkpoint keeps of the parameters and of the adapter's starting pairs, and back; the
// adapter may be null. Throws kCorruptData, naming `source`, when a parameter is missing or has
// another size.
std::vector<StateTensor> save_parameters(const std::vector<ParameterView>& parameters,
                                         const LoraAdapter* adapter);
void restore_parameters(const std::vector<StateTensor>& state, const std::string& source,
                        const std::vector<ParameterView>& parameters, LoraAdapter* adapter);
// Writes the generator's adapter with its notes. The card gets title and base.
void save_generator_adapter(const std::filesystem::path& folder, const RunInputs& inputs,
                            const RunAdapter& adapter, ModelCard card);

}  // namespace quarry
