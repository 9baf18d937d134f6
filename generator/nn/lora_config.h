#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/core/json.h"
#include "generator/nn/lora_settings.h"

namespace quarry {

// A Python regular expression of a PEFT configuration, run by PCRE2 with a bounded number of steps.
// Immutable; safe from many threads.
class PeftPattern {
 public:
  // Throws kInvalidArgument, prefixed by `source`, when the text is not a pattern.
  PeftPattern(const std::string& text, const std::string& source);
  // re.fullmatch. Throws kInvalidArgument when matching takes too many steps.
  bool matches(const std::string& subject) const;

 private:
  std::string source_;
  std::shared_ptr<const void> code_;  // pcre2_code
};

// Whether an entry of modules_to_save selects the module that has this parameter
// ("lm_head.weight"), or one that it is in: as PEFT, by the end of a module's path ("norm" is every
// module whose name ends so, "mlp" all that is in it).
bool saves_module(const std::string& entry, const std::string& tensor);

// adapter_config.json of a PEFT LoRA adapter. The matching rules are PEFT's
// (https://github.com/huggingface/peft, tuners/tuners_utils.py). Immutable.
class LoraConfig {
 public:
  // Throws kNotFound, kCorruptData; kInvalidArgument naming a key that changes the maths and is not
  // supported.
  static LoraConfig load(const std::filesystem::path& path);
  // Throws kInvalidArgument, naming the setting, when a value is out of range or settings exclude
  // each other. Unlike load() takes every init_lora_weights.
  static LoraConfig from_settings(const LoraSettings& settings);

  // Writes the file atomically, as PEFT 0.21 does: keys sorted, two spaces. After load() all that
  // was read, unknown keys included; after from_settings() every key of PEFT. Throws kUnavailable.
  void save(const std::filesystem::path& path) const;
  const OrderedJson& json() const { return json_; }
  // The same with init_lora_weights true when its value would make readers change the base weights.
  LoraConfig with_plain_init() const;
  // The configuration of to_plain_lora() of every pair: ranks doubled, scales as they are, as PEFT
  // converts PiSSA.
  LoraConfig with_doubled_rank() const;

  // Whether the adapter changes the Linear of this module path. `is_output_head`: of the language
  // model, which "all-linear" leaves alone.
  bool targets(const std::string& path, bool is_output_head) const;
  // Whether the adapter has this parameter of the model ("lm_head.weight") whole: of a module in
  // modules_to_save, or a bias that is trained.
  bool replaces(const std::string& tensor) const;
  // The first of these, which PEFT counts beside the base's own.
  bool copies(const std::string& tensor) const;
  // The name of such a parameter in adapter_model.safetensors.
  std::string stored_name(const std::string& tensor) const;
  const std::vector<std::string>& modules_to_save() const { return saved_modules_; }
  const std::string& bias() const { return bias_; }
  // LoraAdapter::invocation_tokens().
  const std::vector<int32_t>& invocation_tokens() const { return invocation_tokens_; }
  int64_t rank(const std::string& path) const;
  // alpha / r, or alpha / sqrt(r) with rsLoRA.
  double scale(const std::string& path) const;
  // Of Linears that no pattern names.
  int64_t default_rank() const { return static_cast<int64_t>(rank_); }
  double default_alpha() const { return alpha_; }
  double default_scale() const;
  bool use_rslora() const { return use_rslora_; }
  bool has_patterns() const { return !rank_pattern_.empty() || !alpha_pattern_.empty(); }
  // For messages: what target_modules says.
  const std::string& target_text() const { return target_text_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  // Module names, a pattern, or neither.
  struct ModuleSelector {
    std::vector<std::string> names;
    std::optional<PeftPattern> pattern;
    bool selects(const std::string& path) const;
    bool names_exactly(const std::string& path) const;
  };
  using NumberByPattern = std::vector<std::pair<PeftPattern, double>>;

  LoraConfig(const std::string& source, OrderedJson json);
  void refuse_unsupported() const;
  void refuse_changed_base() const;
  void read_numbers();
  void read_targets();
  void read_layers();
  void read_full();
  void read_invocation();
  void warn_of_unknown_keys();
  // Null for an absent key or JSON null.
  const OrderedJson* find(const char* key) const;
  [[noreturn]] void throw_value(const char* key, const OrderedJson& value,
                                const char* wanted) const;
  bool read_bool(const char* key, bool default_value) const;
  double read_number(const char* key, double default_value) const;
  NumberByPattern read_number_by_pattern(const char* key) const;
  ModuleSelector read_selector(const char* key) const;
  bool is_in_layers(const std::string& path) const;
  bool has_plain_init() const;

  std::string source_;
  OrderedJson json_;  // file order: the first pattern that matches wins
  double rank_ = 8;
  double alpha_ = 8;
  bool use_rslora_ = false;
  NumberByPattern rank_pattern_;
  NumberByPattern alpha_pattern_;
  bool all_linear_ = false;
  ModuleSelector targets_;
  ModuleSelector excluded_;
  std::vector<std::string> saved_modules_;   // modules_to_save
  std::vector<PeftPattern> saved_patterns_;  // of these: paths that LoRA leaves alone
  std::string bias_ = "none";
  std::vector<int32_t> invocation_tokens_;
  std::optional<std::vector<int64_t>> layers_;
  std::vector<std::string> layers_patterns_;  // names of module lists: "layers", "h"
  std::string target_text_;
  std::vector<std::string> warnings_;
};

}  // namespace quarry
