#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "generator/models/text_heads.h"
#include "generator/nn/lora.h"

namespace quarry {

struct AdaptedClassifier {
  LoadedHead<SequenceClassifier> base;
  std::unique_ptr<LoraAdapter> adapter;  // null: the base's own head
};

// A sequence classifier with an adapter, a PEFT folder of task type SEQ_CLS; empty: none. A base
// without a head gets the adapter's. Throws as load_sequence_classifier(), LoraAdapter::load() and
// check_adapter_base(); kInvalidArgument when neither has a head.
AdaptedClassifier load_adapted_classifier(const std::string& model,
                                          const std::filesystem::path& adapter,
                                          kernels::Precision precision);

}  // namespace quarry
