#pragma once

#include <filesystem>

#include "generator/adapters/model_file.h"
#include "generator/quant/weight_type.h"

namespace quarry {

// Writes the PEFT adapter in `folder` again as `out`, its matrices as F32, F16 or BF16 (half the
// bytes): configuration, notes and model card stay. Throws as LoraAdapter::load and save_adapter.
void retype_adapter(const std::filesystem::path& folder, const ModelFile& base, WeightType type,
                    const std::filesystem::path& out);

}  // namespace quarry
