#include "generator/nn/lora_settings.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "data/core/error.h"

namespace quarry {
namespace {

// The version whose keys these are.
constexpr const char* kPeftVersion = "0.21.0";

constexpr const char* kTaskTypes[] = {"CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS",
                                      "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"};

// Keys of PEFT that no setting changes, with their defaults.
constexpr const char* kOtherKeys = R"({
  "alora_invocation_tokens": null, "arrow_config": null, "auto_mapping": null,
  "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "fan_in_fan_out": false,
  "inference_mode": true, "kasa_config": null, "layer_replication": null, "loftq_config": {},
  "lora_bias": false, "lora_ga_config": null, "megatron_config": null,
  "megatron_core": "megatron.core", "monteclora_config": null, "peft_type": "LORA",
  "qalora_group_size": 16, "revision": null, "target_parameters": null,
  "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false,
  "velora_config": null})";

void check_rank(const std::string& name, int64_t value) {
  QUARRY_CHECK(value >= 1 && value <= kMaxLoraRank, ErrorCode::kInvalidArgument, name, " is ",
               value, ", wanted 1 to ", kMaxLoraRank);
}

void check_alpha(const std::string& name, double value) {
  QUARRY_CHECK(std::isfinite(value) && value > 0, ErrorCode::kInvalidArgument, name, " is ", value,
               ", wanted a positive number");
}

void check_settings(const LoraSettings& settings) {
  check_rank("r", settings.r);
  check_alpha("lora_alpha", settings.lora_alpha);
  for (const auto& [key, value] : settings.rank_pattern) check_rank("rank_pattern " + key, value);
  for (const auto& [key, value] : settings.alpha_pattern) {
    check_alpha("alpha_pattern " + key, value);
  }
  QUARRY_CHECK(settings.lora_dropout >= 0 && settings.lora_dropout < 1, ErrorCode::kInvalidArgument,
               "lora_dropout is ", settings.lora_dropout, ", wanted at least 0 and below 1");
  const int kinds = (settings.target_modules.empty() ? 0 : 1) +
                    (settings.target_pattern.empty() ? 0 : 1) +
                    (settings.target_all_linear ? 1 : 0);
  QUARRY_CHECK(kinds == 1, ErrorCode::kInvalidArgument,
               "target_modules must be a list of names, or a pattern, or \"all-linear\"; ", kinds,
               " of these are set");
  QUARRY_CHECK(settings.exclude_modules.empty() || settings.exclude_pattern.empty(),
               ErrorCode::kInvalidArgument, "exclude_modules is a list of names and a pattern");
  for (const int64_t layer : settings.layers_to_transform) {
    QUARRY_CHECK(layer >= 0, ErrorCode::kInvalidArgument, "layers_to_transform holds ", layer,
                 ", wanted layer numbers from 0");
  }
  const std::string& bias = settings.bias;
  QUARRY_CHECK(bias == "none" || bias == "all" || bias == "lora_only", ErrorCode::kInvalidArgument,
               "bias is \"", bias, "\", wanted none, all or lora_only");
  QUARRY_CHECK(settings.task_type.empty() || is_peft_task_type(settings.task_type),
               ErrorCode::kInvalidArgument, "task_type is \"", settings.task_type,
               "\", which PEFT does not know");
}

OrderedJson sorted_or_null(std::vector<std::string> names) {
  if (names.empty()) return nullptr;
  std::sort(names.begin(), names.end());
  return names;
}

OrderedJson text_or_null(const std::string& text) {
  return text.empty() ? OrderedJson() : OrderedJson(text);
}

OrderedJson target_json(const LoraSettings& settings) {
  if (settings.target_all_linear) return "all-linear";
  if (!settings.target_pattern.empty()) return settings.target_pattern;
  return sorted_or_null(settings.target_modules);
}

OrderedJson init_json(const std::string& name) {
  if (name == "true") return true;
  if (name == "false") return false;
  return name;
}

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return digits;
}

}  // namespace

std::optional<int64_t> pissa_iterations(const std::string& name) {
  const std::string prefix = "pissa_niter_";
  constexpr size_t kMaxDigits = 3;
  if (name.compare(0, prefix.size(), prefix) != 0) return std::nullopt;
  const std::string digits = name.substr(prefix.size());
  const bool valid = !digits.empty() && digits.size() <= kMaxDigits &&
                     digits.find_first_not_of("0123456789") == std::string::npos;
  return valid ? std::optional<int64_t>(std::stoll(digits)) : std::nullopt;
}

bool is_pissa(const std::string& name) { return name == "pissa" || pissa_iterations(name); }

bool is_lora_init(const std::string& name) {
  return name == "true" || name == "false" || name == "gaussian" || name == "loftq" ||
         is_pissa(name);
}

bool is_peft_task_type(const std::string& name) {
  return std::any_of(std::begin(kTaskTypes), std::end(kTaskTypes),
                     [&](const char* known) { return name == known; });
}

OrderedJson json_number(double value) {
  constexpr double kLargest = 1e15;
  if (value == std::floor(value) && std::fabs(value) < kLargest) return int64_t(value);
  return value;
}

OrderedJson lora_settings_json(const LoraSettings& settings) {
  check_settings(settings);
  OrderedJson json = OrderedJson::parse(kOtherKeys);
  json["peft_version"] = kPeftVersion;
  json["r"] = settings.r;
  json["lora_alpha"] = json_number(settings.lora_alpha);
  json["use_rslora"] = settings.use_rslora;
  json["lora_dropout"] = settings.lora_dropout;
  json["target_modules"] = target_json(settings);
  json["exclude_modules"] = settings.exclude_pattern.empty()
                                ? sorted_or_null(settings.exclude_modules)
                                : OrderedJson(settings.exclude_pattern);
  json["rank_pattern"] = settings.rank_pattern;
  json["alpha_pattern"] = OrderedJson::object();
  for (const auto& [key, value] : settings.alpha_pattern)
    json["alpha_pattern"][key] = json_number(value);
  json["layers_to_transform"] = settings.layers_to_transform.empty()
                                    ? OrderedJson()
                                    : OrderedJson(settings.layers_to_transform);
  json["layers_pattern"] = sorted_or_null(settings.layers_pattern);
  json["modules_to_save"] = sorted_or_null(settings.modules_to_save);
  json["bias"] = settings.bias;
  json["init_lora_weights"] = init_json(settings.init_lora_weights);
  json["task_type"] = text_or_null(settings.task_type);
  json["base_model_name_or_path"] = text_or_null(settings.base_model_name_or_path);
  return json;
}

std::string trainable_parameters_text(int64_t trainable, int64_t all) {
  char share[32];
  std::snprintf(share, sizeof(share), "%.4f",
                all == 0 ? 0.0 : 100.0 * static_cast<double>(trainable) / static_cast<double>(all));
  return "trainable params: " + with_commas(trainable) + " || all params: " + with_commas(all) +
         " || trainable%: " + share;
}

}  // namespace quarry
