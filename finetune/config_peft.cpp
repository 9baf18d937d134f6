// PEFT's adapter_config.json as the configuration of a run: the LoraConfig of PEFT 0.21, its names
// and defaults unchanged.
#include <algorithm>

#include "data/core/error.h"
#include "finetune/config_readers.h"
#include "generator/nn/lora_config.h"

namespace quarry {
namespace {

// Fields that choose nothing here, whatever they hold.
constexpr const char* kIgnored[] = {"inference_mode", "peft_version",   "auto_mapping",
                                    "megatron_core",  "fan_in_fan_out", "qalora_group_size"};

// Fields whose maths or whose meaning we do not have: null, false, 0 or empty.
constexpr const char* kDefaultOnly[] = {"use_dora",           "alora_invocation_tokens",
                                        "layer_replication",  "target_parameters",
                                        "lora_bias",          "trainable_token_indices",
                                        "use_qalora",         "use_bdlora",
                                        "arrow_config",       "kasa_config",
                                        "velora_config",      "monteclora_config",
                                        "lora_ga_config",     "megatron_config",
                                        "eva_config",         "corda_config",
                                        "ensure_weight_tying"};

// Reads the fields of one object and remembers which.
class PeftReader {
 public:
  PeftReader(const OrderedJson& json, const std::string& source) : json_(json), source_(source) {
    QUARRY_CHECK(json.is_object(), ErrorCode::kInvalidArgument, source, ": is a JSON ",
                 json.type_name(), ", wanted a LoraConfig");
  }

  // Null for a field that is absent or JSON null.
  const OrderedJson* find(const char* name) {
    taken_.push_back(name);
    const auto it = json_.find(name);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  [[noreturn]] void refuse(const std::string& name, const OrderedJson& value,
                           const std::string& wanted) const {
    throw_error(ErrorCode::kInvalidArgument, source_, ": ", name, " is ",
                dump_json(value).substr(0, 200), ", wanted ", wanted);
  }

  template <typename Value>
  void number(const char* name, Value& value) {
    const OrderedJson* found = find(name);
    if (found == nullptr) return;
    const bool is_whole = std::is_integral_v<Value>;
    if (is_whole ? !found->is_number_integer() : !found->is_number()) {
      refuse(name, *found, is_whole ? "a whole number" : "a number");
    }
    value = found->get<Value>();
  }
  void flag(const char* name, bool& value) {
    const OrderedJson* found = find(name);
    if (found == nullptr) return;
    if (!found->is_boolean()) refuse(name, *found, "true or false");
    value = found->get<bool>();
  }
  void text(const char* name, std::string& value) {
    const OrderedJson* found = find(name);
    if (found == nullptr) return;
    if (!found->is_string()) refuse(name, *found, "a text");
    value = found->get<std::string>();
  }
  // A list, or one item alone.
  template <typename Value>
  void list(const char* name, std::vector<Value>& values, const char* wanted) {
    const OrderedJson* found = find(name);
    if (found == nullptr) return;
    values.clear();
    for (const OrderedJson& item : found->is_array() ? *found : OrderedJson::array({*found})) {
      const bool fits = std::is_integral_v<Value> ? item.is_number_integer() : item.is_string();
      if (!fits) refuse(name, *found, wanted);
      values.push_back(item.get<Value>());
    }
  }
  template <typename Value>
  void by_pattern(const char* name, std::map<std::string, Value>& values) {
    const OrderedJson* found = find(name);
    if (found == nullptr) return;
    if (!found->is_object()) refuse(name, *found, "an object of numbers by pattern");
    for (const auto& [key, item] : found->items()) {
      const bool is_whole = std::is_integral_v<Value>;
      if (is_whole ? !item.is_number_integer() : !item.is_number()) {
        refuse(name, *found, "an object of numbers by pattern");
      }
      values[key] = item.template get<Value>();
    }
  }

  // Every field that was not read has to hold its default.
  void check_rest() const {
    for (const auto& [name, value] : json_.items()) {
      const std::string& field = name;
      const auto is = [&field](const auto& known) { return field == known; };
      if (std::any_of(taken_.begin(), taken_.end(), is)) continue;
      if (std::any_of(std::begin(kIgnored), std::end(kIgnored), is)) continue;
      if (is_default(value)) continue;
      const bool known = std::any_of(std::begin(kDefaultOnly), std::end(kDefaultOnly), is);
      QUARRY_CHECK(known, ErrorCode::kInvalidArgument, source_, ": ", field.substr(0, 100), " is ",
                   dump_json(value).substr(0, 200),
                   ", and no field of PEFT 0.21's LoraConfig: is it misspelt?");
      refuse(field, value, "its default: it is not supported");
    }
  }
  const std::string& source() const { return source_; }

 private:
  static bool is_default(const OrderedJson& value) {
    return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
           (value.is_number() && value.get<double>() == 0) ||
           (value.is_structured() && value.empty()) || (value.is_string() && value == "");
  }

  const OrderedJson& json_;
  std::string source_;
  std::vector<std::string> taken_;
};

// A list of names or a pattern. A pattern that reads like a list of names gets a group around it,
// so that our own configuration of the run says the same.
void read_modules(PeftReader& reader, const char* name, std::vector<std::string>& names,
                  std::string& pattern) {
  const OrderedJson* found = reader.find(name);
  if (found == nullptr) return;
  if (!found->is_string()) return reader.list(name, names, "a list of names or a pattern");
  const std::string text = found->get<std::string>();
  const bool reads_as_names = text.find_first_of("*+?()[]{}|\\^$") == std::string::npos;
  if (!text.empty()) pattern = reads_as_names ? "(?:" + text + ")" : text;
}

void read_init(PeftReader& reader, LoraSettings& settings) {
  const OrderedJson* init = reader.find("init_lora_weights");
  if (init != nullptr && !init->is_boolean() && !init->is_string()) {
    reader.refuse("init_lora_weights", *init, "true, false or a name");
  }
  if (init != nullptr) {
    settings.init_lora_weights =
        init->is_string() ? init->get<std::string>() : (init->get<bool>() ? "true" : "false");
    if (!is_lora_init(settings.init_lora_weights)) {
      reader.refuse("init_lora_weights", *init,
                    "true, false, gaussian, pissa, pissa_niter_N or loftq");
    }
  }
  // One step of 4 bits, which is what is done; other readers than PEFT's own leave it empty.
  const OrderedJson* loftq = reader.find("loftq_config");
  if (loftq == nullptr || loftq->empty()) return;
  const OrderedJson wanted = {{"loftq_bits", 4}, {"loftq_iter", 1}};
  for (const auto& [key, value] : loftq->items()) {
    if (wanted.value(key, OrderedJson()) != value) {
      reader.refuse("loftq_config", *loftq, "loftq_bits 4 and loftq_iter 1");
    }
  }
}

std::string recipe_of(const std::string& task_type, const std::string& source) {
  if (task_type == "CAUSAL_LM") return "causal-lm";
  if (task_type == "SEQ_2_SEQ_LM") return "seq2seq";
  if (task_type == "SEQ_CLS") return "classification";
  throw_error(ErrorCode::kInvalidArgument, source, ": task_type is ", task_type,
              ", which is not trained here, wanted CAUSAL_LM, SEQ_2_SEQ_LM or SEQ_CLS");
}

}  // namespace

LoraSettings read_peft_settings(const OrderedJson& json, const std::string& source) {
  PeftReader reader(json, source);
  LoraSettings settings;
  settings.task_type.clear();
  std::string type = "LORA";
  reader.text("peft_type", type);
  if (type != "LORA") reader.refuse("peft_type", type, "LORA");
  reader.number("r", settings.r);
  reader.number("lora_alpha", settings.lora_alpha);
  reader.number("lora_dropout", settings.lora_dropout);
  reader.flag("use_rslora", settings.use_rslora);
  read_modules(reader, "target_modules", settings.target_modules, settings.target_pattern);
  std::string lower = settings.target_pattern;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower == "(?:all-linear)") {
    settings.target_pattern.clear();
    settings.target_all_linear = true;
  }
  read_modules(reader, "exclude_modules", settings.exclude_modules, settings.exclude_pattern);
  reader.by_pattern("rank_pattern", settings.rank_pattern);
  reader.by_pattern("alpha_pattern", settings.alpha_pattern);
  reader.list("layers_to_transform", settings.layers_to_transform,
              "a whole number or a list of these");
  reader.list("layers_pattern", settings.layers_pattern, "a name or a list of names");
  reader.list("modules_to_save", settings.modules_to_save, "a list of names");
  reader.text("bias", settings.bias);
  read_init(reader, settings);
  reader.text("task_type", settings.task_type);
  reader.text("base_model_name_or_path", settings.base_model_name_or_path);
  std::string revision;
  reader.text("revision", revision);
  if (!revision.empty() && revision != "main") {
    reader.refuse("revision", revision, "null: the base is a folder or a file of its own");
  }
  const OrderedJson* runtime = reader.find("runtime_config");
  if (runtime != nullptr && runtime->is_object() &&
      runtime->value("ephemeral_gpu_offload", false)) {
    reader.refuse("runtime_config", *runtime, "its default: it is not supported");
  }
  reader.check_rest();
  return settings;
}

LoraSettings load_peft_settings(const std::filesystem::path& path) {
  const std::string text = read_config_text(path);
  parse_json(text, path.string(), ErrorCode::kCorruptData);
  return read_peft_settings(OrderedJson::parse(text), path.string());
}

void read_peft_config(const OrderedJson& json, const std::string& source, FinetuneConfig& config) {
  const LoraSettings settings = read_peft_settings(json, source);
  AdapterOptions adapter;
  static_cast<LoraSettings&>(adapter) = settings;
  adapter.task_type = LoraSettings().task_type;  // the recipe says
  adapter.base_model_name_or_path.clear();
  adapter.target_default = settings.target_modules.empty() && settings.target_pattern.empty() &&
                           !settings.target_all_linear;
  adapter.loftq_weights = config.adapter.loftq_weights;
  config.adapter = adapter;
  if (!settings.task_type.empty()) config.recipe = recipe_of(settings.task_type, source);
  if (!settings.base_model_name_or_path.empty()) {
    config.model.path = settings.base_model_name_or_path;
  }
  // Ranges, and settings that exclude each other.
  LoraSettings checked = settings;
  if (adapter.target_default) checked.target_modules = {"any"};
  try {
    LoraConfig::from_settings(checked);
  } catch (const Error& error) {
    throw_error(error.code(), source, ": ", error.what());
  }
}

}  // namespace quarry
