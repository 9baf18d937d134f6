#pragma once

#include <filesystem>
#include <string>

#include "data/core/json.h"
#include "finetune/config.h"
#include "generator/nn/lora_settings.h"

// Readers of configurations, one file each. All throw kInvalidArgument, naming `source`, and change
// nothing then; what a file does not say stays but where noted.
namespace quarry {

// Throws kNotFound; kInvalidArgument for more than 1 MiB.
std::string read_config_text(const std::filesystem::path& path);

// PEFT's adapter_config.json: a LoraConfig. All of `adapter` is set, with PEFT's defaults for what
// is absent; task_type chooses the recipe and base_model_name_or_path the model. A field that we do
// not compute may hold its default.
void read_peft_config(const OrderedJson& json, const std::string& source, FinetuneConfig& config);
// The settings alone; no targets: PEFT's of the family. task_type and base_model_name_or_path too.
LoraSettings read_peft_settings(const OrderedJson& json, const std::string& source);
// The same of a file. Throws kNotFound, kCorruptData.
LoraSettings load_peft_settings(const std::filesystem::path& path);

// Ludwig's `model_type: llm`. All of `adapter` is set, with Ludwig's defaults for what is absent.
// REQUIRES: `text` is YAML.
void read_ludwig_config(const std::string& text, const std::string& source, FinetuneConfig& config);

}  // namespace quarry
