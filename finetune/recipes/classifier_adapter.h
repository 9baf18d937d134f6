#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "finetune/config.h"
#include "finetune/estimate.h"
#include "finetune/model_card.h"
#include "finetune/run_adapter.h"
#include "generator/models/text_heads.h"

namespace quarry {

// What recipes that train a sequence classifier have in common: LoRA on its Linears and the head
// whole, as PEFT's task type SEQ_CLS.

// The adapter of adapter.start_from, else a fresh one with a copy of the head. Throws
// kInvalidArgument for modules_to_save that are not the head's; as LoraAdapter::load().
RunAdapter make_classifier_adapter(const FinetuneConfig& config,
                                   const LoadedHead<SequenceClassifier>& base);
// As encoder_shape().
TrainingShape classifier_shape(const FinetuneConfig& config,
                               const LoadedHead<SequenceClassifier>& base,
                               const LoraAdapter& adapter, const std::vector<int64_t>& tokens);
// Writes a PEFT folder that notes base and labels; the card gets the base.
void save_classifier_adapter(const std::filesystem::path& folder,
                             const LoadedHead<SequenceClassifier>& base, const RunAdapter& trained,
                             ModelCard card);

}  // namespace quarry
