#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// Largest rank that is read or trained.
constexpr int64_t kMaxLoraRank = 1 << 16;

// What a user chooses about an adapter: the LoraConfig of PEFT 0.21, with its names and defaults.
struct LoraSettings {
  int64_t r = 8;
  double lora_alpha = 8;
  bool use_rslora = false;  // scale alpha / sqrt(r) instead of alpha / r
  double lora_dropout = 0;  // of the input of A, while training only
  // Names ("q_proj": the last components of a path), else a pattern that matches whole paths, else
  // every Linear but the output head.
  std::vector<std::string> target_modules;
  std::string target_pattern;
  bool target_all_linear = false;
  std::vector<std::string> exclude_modules;     // as target_modules
  std::string exclude_pattern;                  // as target_pattern
  std::map<std::string, int64_t> rank_pattern;  // end of a path, a pattern -> r
  std::map<std::string, double> alpha_pattern;  // end of a path, a pattern -> lora_alpha
  std::vector<int64_t> layers_to_transform;     // empty: all; needs target_modules
  std::vector<std::string> layers_pattern;      // names of module lists ("layers", "h")
  std::vector<std::string> modules_to_save;     // trained in full and kept in the adapter
  std::string bias = "none";                    // "none", "all", "lora_only"
  std::string init_lora_weights = "true";       // "true" (Kaiming), "false", "gaussian" ...
  std::string task_type = "CAUSAL_LM";          // empty: none
  std::string base_model_name_or_path;          // empty: none
};

// Whether `name` is an init_lora_weights that can be trained from: true, false, gaussian, pissa,
// pissa_niter_N, loftq.
bool is_lora_init(const std::string& name);
bool is_pissa(const std::string& name);
// The N of "pissa_niter_N"; nullopt for every other name.
std::optional<int64_t> pissa_iterations(const std::string& name);

// Whether PEFT knows this task_type.
bool is_peft_task_type(const std::string& name);

// A whole number as an integer: lora_alpha is one in PEFT.
OrderedJson json_number(double value);

// The settings as adapter_config.json: every key that PEFT 0.21 writes, lists sorted. Throws
// kInvalidArgument naming the setting when a value is out of range or settings exclude each other.
OrderedJson lora_settings_json(const LoraSettings& settings);

// "trainable params: 896 || all params: 25,632 || trainable%: 3.4956", as PEFT prints it.
std::string trainable_parameters_text(int64_t trainable, int64_t all);

}  // namespace quarry
