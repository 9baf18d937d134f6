#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "finetune/config.h"
#include "finetune/estimate.h"
#include "generator/nn/lora.h"

namespace quarry {

// What the memory of training an adapter of an encoder depends on, whose activations are float32
// and all kept. `path`: its folder; `tokens`: of each text of a batch like all others.
TrainingShape encoder_shape(const FinetuneConfig& config, const std::string& path,
                            const LoraAdapter& adapter, const std::vector<int64_t>& tokens);
// Adds all that an adapter of an encoder has to what is trained.
void count_adapter(const LoraAdapter& adapter, TrainingShape& shape);

}  // namespace quarry
