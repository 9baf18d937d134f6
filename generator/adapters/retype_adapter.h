#pragma once

#include <filesystem>
#include <optional>

#include "generator/adapters/model_file.h"
#include "generator/quant/weight_type.h"

namespace quarry {

struct RetypeOptions {
  WeightType type = WeightType::kBF16;  // of the matrices; or kF32, kF16
  std::optional<double> refusal_bias;   // AdapterNotes::refusal_bias; none: as it is
};

// Writes the PEFT adapter in `folder` again as `out`; configuration, the other notes and model card
// stay. Throws as LoraAdapter::load and save_adapter.
void retype_adapter(const std::filesystem::path& folder, const ModelFile& base,
                    const RetypeOptions& wanted, const std::filesystem::path& out);

}  // namespace quarry
