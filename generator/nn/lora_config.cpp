#include "generator/nn/lora_config.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>

#include "data/core/mapped_file.h"
#include "data/core/paths.h"

namespace quarry {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr const char* kBiasSuffix = ".bias";

// Keys that change what the adapter computes. Absent, null, false and empty values are harmless.
constexpr const char* kUnsupported[] = {"use_dora",
                                        "layer_replication",
                                        "target_parameters",
                                        "lora_bias",
                                        "trainable_token_indices",
                                        "use_qalora",
                                        "use_bdlora",
                                        "arrow_config",
                                        "kasa_config",
                                        "velora_config",
                                        "monteclora_config",
                                        "lora_ga_config",
                                        "megatron_config"};

// Keys that we read, or that do not matter once an adapter is trained. fan_in_fan_out says how a
// base holds its weights; PEFT corrects it where it is wrong, and the base knows.
constexpr const char* kKnown[] = {"peft_type",
                                  "r",
                                  "lora_alpha",
                                  "use_rslora",
                                  "alora_invocation_tokens",
                                  "rank_pattern",
                                  "alpha_pattern",
                                  "target_modules",
                                  "exclude_modules",
                                  "layers_to_transform",
                                  "layers_pattern",
                                  "bias",
                                  "modules_to_save",
                                  "init_lora_weights",
                                  "lora_dropout",
                                  "inference_mode",
                                  "task_type",
                                  "fan_in_fan_out",
                                  "base_model_name_or_path",
                                  "revision",
                                  "auto_mapping",
                                  "peft_version",
                                  "megatron_core",
                                  "loftq_config",
                                  "eva_config",
                                  "corda_config",
                                  "qalora_group_size",
                                  "runtime_config",
                                  "ensure_weight_tying"};

bool is_harmless(const OrderedJson& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_structured() && value.empty());
}

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

// The module that has this parameter.
std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); }

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

PeftPattern::PeftPattern(const std::string& text, const std::string& source) : source_(source) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                    PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    throw_error(ErrorCode::kInvalidArgument, source, ": pattern \"", text,
                "\" is not a regular expression: ", reinterpret_cast<const char*>(message),
                " at byte ", offset);
  }
  code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
}

bool PeftPattern::matches(const std::string& subject) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(context.get(), 1'000'000);
  const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(),
                                 0, 0, data.get(), context.get());
  QUARRY_CHECK(result >= 0 || result == PCRE2_ERROR_NOMATCH, ErrorCode::kInvalidArgument, source_,
               ": matching its pattern against '", subject, "' failed with PCRE2 error ", result);
  return result >= 0;
}

bool saves_module(const std::string& entry, const std::string& tensor) {
  for (size_t end = tensor.rfind('.'); end != std::string::npos && end > 0;
       end = tensor.rfind('.', end - 1)) {
    if (ends_with(tensor.substr(0, end), entry)) return true;
  }
  return false;
}

bool LoraConfig::ModuleSelector::names_exactly(const std::string& path) const {
  return std::find(names.begin(), names.end(), path) != names.end();
}

bool LoraConfig::ModuleSelector::selects(const std::string& path) const {
  if (pattern) return pattern->matches(path);
  return names_exactly(path) ||
         std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return ends_with(path, "." + name); });
}

LoraConfig LoraConfig::load(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::string source = path.string();
  QUARRY_CHECK(file.size() <= kMaxConfigBytes, ErrorCode::kCorruptData, source, ": ", file.size(),
               " bytes of JSON, at most ", kMaxConfigBytes, " accepted");
  const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
  parse_json(text, source, ErrorCode::kCorruptData);
  LoraConfig config(source, OrderedJson::parse(text));
  config.refuse_changed_base();
  return config;
}

LoraConfig LoraConfig::from_settings(const LoraSettings& settings) {
  return LoraConfig("LoRA settings", lora_settings_json(settings));
}

LoraConfig::LoraConfig(const std::string& source, OrderedJson json)
    : source_(source), json_(std::move(json)) {
  QUARRY_CHECK(json_.is_object(), ErrorCode::kCorruptData, source_, ": is a JSON ",
               json_.type_name(), ", wanted an object");
  refuse_unsupported();
  read_numbers();
  read_targets();
  read_layers();
  read_full();
  read_invocation();
  warn_of_unknown_keys();
}

void LoraConfig::save(const std::filesystem::path& path) const {
  OrderedJson sorted = OrderedJson::object();
  std::map<std::string, const OrderedJson*> items;
  for (const auto& [key, value] : json_.items()) items[key] = &value;
  for (const auto& [key, value] : items) sorted[key] = *value;
  constexpr bool kAsciiOnly = true;
  write_file_atomically(path,
                        sorted.dump(2, ' ', kAsciiOnly, OrderedJson::error_handler_t::replace));
}

void LoraConfig::refuse_unsupported() const {
  const OrderedJson* type = find("peft_type");
  QUARRY_CHECK(type != nullptr, ErrorCode::kCorruptData, source_, ": has no \"peft_type\"");
  QUARRY_CHECK(*type == "LORA", ErrorCode::kInvalidArgument, source_, ": peft_type is ",
               dump_json(*type), ", only \"LORA\" is supported");
  for (const char* key : kUnsupported) {
    const OrderedJson* value = find(key);
    QUARRY_CHECK(value == nullptr || is_harmless(*value), ErrorCode::kInvalidArgument, source_,
                 ": ", key, " is ", dump_json(*value),
                 ", which changes the maths and is not supported");
  }
  const OrderedJson* task = find("task_type");
  QUARRY_CHECK(
      task == nullptr || (task->is_string() && is_peft_task_type(task->get<std::string>())),
      ErrorCode::kInvalidArgument, source_, ": task_type is ", dump_json(*task),
      ", which PEFT does not know");
}

// What a configuration that is about to be trained may ask for, and an adapter to apply may not.
void LoraConfig::refuse_changed_base() const {
  QUARRY_CHECK(has_plain_init(), ErrorCode::kInvalidArgument, source_, ": init_lora_weights is ",
               dump_json(*find("init_lora_weights")),
               ", which changes the base weights; save the adapter converted to plain LoRA "
               "(path_initial_model_for_weight_conversion)");
}

// Some initialisations change the base weights too; these only choose where A and B start.
bool LoraConfig::has_plain_init() const {
  const OrderedJson* init = find("init_lora_weights");
  if (init == nullptr || init->is_boolean()) return true;
  const std::string name = init->is_string() ? lower(init->get<std::string>()) : "";
  return name == "gaussian" || name == "eva" || name == "orthogonal" || name == "mica";
}

LoraConfig LoraConfig::with_plain_init() const {
  LoraConfig config = *this;
  if (!has_plain_init()) config.json_["init_lora_weights"] = true;
  return config;
}

LoraConfig LoraConfig::with_doubled_rank() const {
  OrderedJson json = json_;
  const double alpha_factor = use_rslora_ ? std::sqrt(2.0) : 2.0;
  json["r"] = 2 * default_rank();
  json["lora_alpha"] = json_number(alpha_factor * alpha_);
  if (find("rank_pattern") != nullptr) {
    for (auto& [key, value] : json["rank_pattern"].items()) value = 2 * value.get<int64_t>();
  }
  if (find("alpha_pattern") != nullptr) {
    for (auto& [key, value] : json["alpha_pattern"].items()) {
      value = json_number(alpha_factor * value.get<double>());
    }
  }
  return LoraConfig(source_, std::move(json)).with_plain_init();
}

void LoraConfig::read_numbers() {
  rank_ = read_number("r", rank_);
  alpha_ = read_number("lora_alpha", alpha_);
  use_rslora_ = read_bool("use_rslora", false);
  rank_pattern_ = read_number_by_pattern("rank_pattern");
  alpha_pattern_ = read_number_by_pattern("alpha_pattern");
  std::vector<double> ranks = {rank_};
  for (const auto& [pattern, value] : rank_pattern_) ranks.push_back(value);
  for (const double value : ranks) {
    QUARRY_CHECK(value >= 1 && value <= kMaxLoraRank && value == std::floor(value),
                 ErrorCode::kCorruptData, source_, ": rank ", value,
                 " is not a whole number from 1 to ", kMaxLoraRank);
  }
}

void LoraConfig::read_targets() {
  const OrderedJson* value = find("target_modules");
  QUARRY_CHECK(value != nullptr && !is_harmless(*value), ErrorCode::kInvalidArgument, source_,
               ": has no target_modules");
  target_text_ = dump_json(*value);
  all_linear_ = value->is_string() && lower(value->get<std::string>()) == "all-linear";
  if (!all_linear_) targets_ = read_selector("target_modules");
  excluded_ = read_selector("exclude_modules");
}

void LoraConfig::read_full() {
  const OrderedJson* saved = find("modules_to_save");
  if (saved != nullptr && !saved->is_array()) {
    throw_value("modules_to_save", *saved, "a list of names");
  }
  saved_modules_ = read_selector("modules_to_save").names;
  for (const std::string& name : saved_modules_) {
    QUARRY_CHECK(!name.empty(), ErrorCode::kInvalidArgument, source_,
                 ": modules_to_save holds an empty name, which is every module");
    saved_patterns_.emplace_back("(^|.*\\.)" + name + "($|\\..*)", source_ + ": modules_to_save");
  }
  QUARRY_CHECK(saved_modules_.empty() || !read_bool("ensure_weight_tying", false),
               ErrorCode::kInvalidArgument, source_,
               ": ensure_weight_tying is true beside modules_to_save, which is not supported: a "
               "saved embedding and the head tied to it become two");
  const OrderedJson* bias = find("bias");
  if (bias != nullptr) bias_ = bias->is_string() ? bias->get<std::string>() : dump_json(*bias);
  QUARRY_CHECK(bias_ == "none" || bias_ == "all" || bias_ == "lora_only",
               ErrorCode::kInvalidArgument, source_, ": bias is ", dump_json(*bias),
               ", wanted \"none\", \"all\" or \"lora_only\"");
}

void LoraConfig::read_invocation() {
  constexpr const char* kKey = "alora_invocation_tokens";
  const OrderedJson* value = find(kKey);
  if (value == nullptr || is_harmless(*value)) return;
  if (!value->is_array()) throw_value(kKey, *value, "a list of token ids");
  for (const OrderedJson& token : *value) {
    const bool is_id = token.is_number_unsigned() && token.get<uint64_t>() <= INT32_MAX;
    if (!is_id) throw_value(kKey, *value, "a list of token ids");
    invocation_tokens_.push_back(token.get<int32_t>());
  }
  QUARRY_CHECK(saved_modules_.empty() && bias_ == "none", ErrorCode::kInvalidArgument, source_,
               ": ", kKey, " is ", dump_json(*value),
               " beside modules_to_save or trained biases, which would act before those tokens");
}

void LoraConfig::read_layers() {
  const OrderedJson* layers = find("layers_to_transform");
  const OrderedJson* patterns = find("layers_pattern");
  if (layers != nullptr && !is_harmless(*layers)) {
    QUARRY_CHECK(!targets_.pattern && !all_linear_, ErrorCode::kInvalidArgument, source_,
                 ": layers_to_transform needs a list of target_modules, found ", target_text_);
    layers_.emplace();
    const OrderedJson list = layers->is_array() ? *layers : OrderedJson::array({*layers});
    for (const OrderedJson& item : list) {
      if (!item.is_number_integer() || item.get<int64_t>() < 0) {
        throw_value("layers_to_transform", item, "whole numbers");
      }
      layers_->push_back(item.get<int64_t>());
    }
  }
  if (patterns == nullptr || is_harmless(*patterns) || *patterns == "") return;
  QUARRY_CHECK(layers_.has_value(), ErrorCode::kInvalidArgument, source_,
               ": layers_pattern without layers_to_transform");
  const OrderedJson list = patterns->is_array() ? *patterns : OrderedJson::array({*patterns});
  for (const OrderedJson& item : list) {
    if (!item.is_string()) throw_value("layers_pattern", item, "a string or a list of strings");
    layers_patterns_.push_back(item.get<std::string>());
  }
}

void LoraConfig::warn_of_unknown_keys() {
  std::set<std::string> known(std::begin(kKnown), std::end(kKnown));
  known.insert(std::begin(kUnsupported), std::end(kUnsupported));
  for (const auto& [key, value] : json_.items()) {
    if (known.count(key) == 0)
      warnings_.push_back(source_ + ": unknown key \"" + key + "\" ignored");
  }
}

const OrderedJson* LoraConfig::find(const char* key) const {
  const auto it = json_.find(key);
  return it == json_.end() || it->is_null() ? nullptr : &*it;
}

void LoraConfig::throw_value(const char* key, const OrderedJson& value, const char* wanted) const {
  throw_error(ErrorCode::kCorruptData, source_, ": ", key, " is ", dump_json(value), ", wanted ",
              wanted);
}

bool LoraConfig::read_bool(const char* key, bool default_value) const {
  const OrderedJson* value = find(key);
  if (value == nullptr) return default_value;
  if (!value->is_boolean()) throw_value(key, *value, "true or false");
  return value->get<bool>();
}

double LoraConfig::read_number(const char* key, double default_value) const {
  const OrderedJson* value = find(key);
  if (value == nullptr) return default_value;
  if (!value->is_number()) throw_value(key, *value, "a number");
  return value->get<double>();
}

LoraConfig::NumberByPattern LoraConfig::read_number_by_pattern(const char* key) const {
  NumberByPattern numbers;
  const OrderedJson* value = find(key);
  if (value == nullptr) return numbers;
  if (!value->is_object()) throw_value(key, *value, "an object of numbers");
  for (const auto& [pattern, number] : value->items()) {
    if (!number.is_number()) throw_value(key, *value, "an object of numbers");
    numbers.emplace_back(PeftPattern("(.*\\.)?(" + pattern + ")", source_ + ": " + key),
                         number.get<double>());
  }
  return numbers;
}

LoraConfig::ModuleSelector LoraConfig::read_selector(const char* key) const {
  ModuleSelector selector;
  const OrderedJson* value = find(key);
  if (value == nullptr || is_harmless(*value) || *value == "") return selector;
  if (value->is_string()) {
    selector.pattern.emplace(value->get<std::string>(), source_ + ": " + key);
    return selector;
  }
  if (!value->is_array()) throw_value(key, *value, "a pattern or a list of names");
  for (const OrderedJson& item : *value) {
    if (!item.is_string()) throw_value(key, *value, "a pattern or a list of names");
    selector.names.push_back(item.get<std::string>());
  }
  return selector;
}

// The layer is the first number between dots with two components before it ("model.layers.3."), or
// the one after a component that layers_pattern names.
bool LoraConfig::is_in_layers(const std::string& path) const {
  const std::vector<std::string> parts = split(path, '.');
  for (size_t i = 1; i + 1 < parts.size(); ++i) {
    if (!is_number(parts[i])) continue;
    const bool named =
        layers_patterns_.empty()
            ? i >= 2
            : std::any_of(
                  layers_patterns_.begin(), layers_patterns_.end(),
                  [&](const std::string& pattern) {
                    return PeftPattern(pattern, source_ + ": layers_pattern").matches(parts[i - 1]);
                  });
    if (!named) continue;
    const int64_t layer = std::stoll(parts[i]);
    return std::find(layers_->begin(), layers_->end(), layer) != layers_->end();
  }
  return false;
}

bool LoraConfig::copies(const std::string& tensor) const {
  return std::any_of(saved_modules_.begin(), saved_modules_.end(),
                     [&](const std::string& entry) { return saves_module(entry, tensor); });
}

bool LoraConfig::replaces(const std::string& tensor) const {
  if (copies(tensor)) return true;
  if (bias_ == "none" || !ends_with(tensor, kBiasSuffix)) return false;
  const std::string module = module_of(tensor);
  return bias_ == "all" || targets(module, module == "lm_head");
}

std::string LoraConfig::stored_name(const std::string& tensor) const {
  const std::string module = module_of(tensor);
  const bool of_adapted = ends_with(tensor, kBiasSuffix) && targets(module, module == "lm_head");
  return "base_model.model." + (of_adapted ? module + ".base_layer.bias" : tensor);
}

bool LoraConfig::targets(const std::string& path, bool is_output_head) const {
  if (excluded_.selects(path)) return false;
  for (const PeftPattern& saved : saved_patterns_) {
    if (saved.matches(path)) return false;
  }
  if (all_linear_) return !is_output_head;
  if (!targets_.selects(path)) return false;
  return !layers_ || targets_.names_exactly(path) || is_in_layers(path);
}

int64_t LoraConfig::rank(const std::string& path) const {
  for (const auto& [pattern, value] : rank_pattern_) {
    if (pattern.matches(path)) return static_cast<int64_t>(value);
  }
  return static_cast<int64_t>(rank_);
}

double LoraConfig::default_scale() const {
  return alpha_ / (use_rslora_ ? std::sqrt(rank_) : rank_);
}

double LoraConfig::scale(const std::string& path) const {
  double alpha = alpha_;
  for (const auto& [pattern, value] : alpha_pattern_) {
    if (!pattern.matches(path)) continue;
    alpha = value;
    break;
  }
  const auto r = static_cast<double>(rank(path));
  return alpha / (use_rslora_ ? std::sqrt(r) : r);
}

}  // namespace quarry
