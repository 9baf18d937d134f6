// Ludwig's YAML of `model_type: llm` (github.com/ludwig-ai/ludwig, schema/llms and
// schema/trainer.py) as the configuration of a run. What the reader cannot do it refuses; the data
// set is named beside the file, as Ludwig does.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>

#include "data/core/error.h"
#include "finetune/config_readers.h"
#include "finetune/config_text.h"
#include "finetune/data/prompt_template.h"

namespace quarry {
namespace {

using config_text::to_flag;
using config_text::to_integer;
using config_text::to_real;

constexpr int64_t kMany = int64_t{1} << 30;

// The keys of one map, each read once.
class Section {
 public:
  // An absent map is an empty one. `name` is empty at the top.
  Section(const YAML::Node& node, std::string name, std::string source)
      : node_(node), name_(std::move(name)), source_(std::move(source)) {
    const bool is_absent = !node_.IsDefined() || node_.IsNull();
    if (!is_absent && !node_.IsMap()) fail(node_, name_, "is no map");
  }

  bool has(const std::string& key) {
    seen_.insert(key);
    if (!node_.IsMap()) return false;
    const YAML::Node value = get(key);
    return value.IsDefined() && !value.IsNull();
  }
  YAML::Node at(const std::string& key) { return has(key) ? get(key) : YAML::Node(); }
  Section section(const std::string& key) { return {at(key), path(key), source_}; }

  std::string text(const std::string& key, const std::string& fallback = "") {
    if (!has(key)) return fallback;
    const YAML::Node value = get(key);
    if (!value.IsScalar()) fail(value, path(key), "is a map or a list, wanted one value");
    return value.Scalar();
  }
  double real(const std::string& key, double fallback, double min, double max) {
    return read(key, fallback, [&](const auto& name, const auto& value) {
      return to_real(name, value, min, max);
    });
  }
  int64_t integer(const std::string& key, int64_t fallback, int64_t min, int64_t max) {
    return read(key, fallback, [&](const auto& name, const auto& value) {
      return to_integer(name, value, min, max);
    });
  }
  bool flag(const std::string& key, bool fallback) {
    return read(key, fallback,
                [](const auto& name, const auto& value) { return to_flag(name, value); });
  }
  // What stands there has to be one of these; absent or null is the first of them.
  std::string choice(const std::string& key, const std::vector<std::string>& known) {
    std::string value = text(key, known.front());
    if (std::find(known.begin(), known.end(), value) == known.end()) {
      std::string wanted;
      for (const std::string& name : known) wanted += (wanted.empty() ? "" : ", ") + name;
      refuse(key, value, wanted);
    }
    return value;
  }
  // Keys that say how Ludwig runs or reports, which is not ours to follow.
  void ignore(std::initializer_list<const char*> keys) { seen_.insert(keys.begin(), keys.end()); }
  // A key that has to be absent or null.
  void require_absent(const std::string& key, const std::string& why) {
    if (has(key)) fail(get(key), path(key), "is set: " + why);
  }
  // A key is left that was not read.
  void done() const {
    if (!node_.IsMap()) return;
    for (const auto& item : node_) {
      const std::string key = item.first.Scalar();
      if (seen_.count(key) == 0) {
        fail(item.first, path(key.substr(0, 100)),
             "is not read here: no key of this part of Ludwig's configuration, or one without a "
             "counterpart");
      }
    }
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& value,
                           const std::string& wanted) const {
    fail(get(key), path(key), concat("is \"", value.substr(0, 200), "\", wanted ", wanted));
  }
  [[noreturn]] void fail(const YAML::Node& where, const std::string& name,
                         const std::string& what) const {
    throw_error(ErrorCode::kInvalidArgument, source_, ":", where.Mark().line + 1, ": ",
                name.empty() ? "the configuration" : name, " ", what);
  }
  std::string path(const std::string& key) const { return name_.empty() ? key : name_ + "." + key; }

 private:
  // Reading a node that is not const would make what is missing.
  YAML::Node get(const std::string& key) const { return node_[key]; }
  template <typename Value, typename Read>
  Value read(const std::string& key, Value fallback, const Read& read_value) {
    if (!has(key)) return fallback;
    const std::string value = text(key);
    try {
      return read_value(path(key), value);
    } catch (const Error& error) {
      throw_error(error.code(), source_, ":", get(key).Mark().line + 1, ": ", error.what());
    }
  }

  YAML::Node node_;
  std::string name_;
  std::string source_;
  std::set<std::string> seen_;
};

// `adapter: lora` is short for `adapter: {type: lora}`.
void read_adapter(Section& root, const std::string& source, AdapterOptions& out) {
  YAML::Node node = root.at("adapter");
  if (node.IsScalar()) {
    root.choice("adapter", {"lora"});
    node = YAML::Node(YAML::NodeType::Map);
  }
  QUARRY_CHECK(node.IsMap(), ErrorCode::kInvalidArgument, source,
               ": has no adapter, which is full fine-tuning in Ludwig and not done here, wanted "
               "adapter: {type: lora}");
  Section adapter(node, "adapter", source);
  out = AdapterOptions();
  adapter.choice("type", {"lora"});
  out.r = adapter.integer("r", 8, 1, kMaxLoraRank);
  out.lora_alpha = adapter.real("alpha", 2.0 * static_cast<double>(out.r), 1e-6, 1e6);
  out.lora_dropout = adapter.real("dropout", 0.05, 0, 0.999999);
  out.bias = adapter.choice("bias_type", {"none", "all", "lora_only"});
  out.use_rslora = adapter.flag("use_rslora", false);
  adapter.choice("use_dora", {"false"});
  adapter.require_absent("loraplus_lr_ratio", "LoRA+ is not supported");
  out.target_all_linear = false;
  if (adapter.has("target_modules")) {
    const YAML::Node targets = adapter.at("target_modules");
    out.target_all_linear = targets.IsScalar() && targets.Scalar() == "all-linear";
    if (targets.IsSequence()) out.target_modules = targets.as<std::vector<std::string>>();
    if (targets.IsScalar() && !out.target_all_linear) out.target_pattern = targets.Scalar();
  }
  out.target_default =
      out.target_modules.empty() && out.target_pattern.empty() && !out.target_all_linear;
  out.init_lora_weights = adapter.text("init_lora_weights", "true");
  const auto by_pattern = [&](const char* key, auto& values) {
    Section patterns = adapter.section(key);
    const YAML::Node map = adapter.at(key);
    for (const auto& item : map) {
      const std::string name = item.first.Scalar();
      values[name] = static_cast<std::decay_t<decltype(values[name])>>(
          patterns.integer(name, 1, 1, kMaxLoraRank));
    }
  };
  by_pattern("rank_pattern", out.rank_pattern);
  by_pattern("alpha_pattern", out.alpha_pattern);
  out.start_from = adapter.text("pretrained_adapter_weights");
  Section after = adapter.section("postprocessor");
  after.ignore({"progressbar"});
  if (after.flag("merge_adapter_into_base_model", false)) {
    after.refuse("merge_adapter_into_base_model", "true",
                 "false; `quarry adapter merge` merges what was trained");
  }
  after.done();
  adapter.done();
}

// bnb_4bit_use_double_quant makes no difference: the scales of a block are kept in halves.
void read_quantization(Section quantization, bool is_present, FinetuneConfig& config) {
  const int64_t bits = quantization.integer("bits", 4, 4, 8);
  const std::string type = quantization.choice("bnb_4bit_quant_type", {"nf4", "fp4"});
  const std::string compute =
      quantization.choice("bnb_4bit_compute_dtype", {"float16", "bfloat16", "float32"});
  quantization.real("llm_int8_threshold", 6.0, 0, 1e6);
  quantization.choice("llm_int8_has_fp16_weight", {"false"});
  quantization.flag("bnb_4bit_use_double_quant", true);
  quantization.done();
  if (!is_present) return;
  if (bits != 4 && bits != 8) quantization.refuse("bits", std::to_string(bits), "4 or 8");
  config.model.load_in = bits == 8 ? "int8" : type;
  if (compute == "float32") config.training.compute = "f32";
}

// The one feature of a list, which has to be a text. Returns its name.
std::string read_feature(Section& root, const char* list, const std::string& source,
                         int64_t& max_tokens) {
  const YAML::Node features = root.at(list);
  QUARRY_CHECK(features.IsSequence() && features.size() == 1, ErrorCode::kInvalidArgument, source,
               ":", features.Mark().line + 1, ": ", list, " holds ",
               features.IsSequence() ? features.size() : 0, " features, wanted one of type text");
  Section feature(features[0], concat(list, "[0]"), source);
  std::string name = feature.text("name");
  if (name.empty()) feature.fail(features[0], feature.path("name"), "is missing");
  name = feature.text("column", name);
  feature.choice("type", {"text"});
  Section preprocessing = feature.section("preprocessing");
  max_tokens = preprocessing.integer("max_sequence_length", 0, 0, kMany);
  preprocessing.done();
  feature.ignore({"encoder", "decoder", "loss"});
  feature.done();
  return name;
}

void replace_all(const std::string& from, const std::string& to, std::string& text) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

// Prompt and completion of a row, as raw text.
void read_prompt(Section& root, const std::string& source, FinetuneConfig& config) {
  Section prompt = root.section("prompt");
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  const std::string input = read_feature(root, "input_features", source, input_tokens);
  config.data.columns["completion"] = read_feature(root, "output_features", source, output_tokens);
  config.data.completion_form = "raw";
  std::string form = prompt.text("template");
  const std::string task = prompt.text("task");
  Section retrieval = prompt.section("retrieval");
  retrieval.choice("type", {"null"});
  retrieval.choice("k", {"0"});
  retrieval.require_absent("index_name", "retrieval is not read from here, but from passages.*");
  retrieval.require_absent("model_name", "retrieval is not read from here, but from passages.*");
  retrieval.done();
  prompt.done();
  if (form.empty()) {
    if (!task.empty()) prompt.refuse("task", task, "a template beside it that holds {__task__}");
    config.data.columns["prompt"] = input;
    config.data.prompt_template.clear();
  } else {
    replace_all("{__task__}", escape_braces(task), form);
    replace_all("{__sample__}", "{" + input + "}", form);
    try {
      PromptTemplate{form};  // says what is wrong with it
    } catch (const Error& error) {
      prompt.fail(prompt.at("template"), prompt.path("template"), error.what());
    }
    config.data.prompt_template = form;
  }
  // Ludwig cuts a row that is longer; here it is left out.
  if (input_tokens > 0 && output_tokens > 0) {
    config.training.max_seq_len = input_tokens + output_tokens;
  }
}

void read_preprocessing(Section preprocessing, FinetuneConfig& config) {
  config.training.max_seq_len =
      preprocessing.integer("global_max_sequence_length", config.training.max_seq_len, 16, 1 << 24);
  config.training.micro_batch_tokens =
      std::max(config.training.micro_batch_tokens, config.training.max_seq_len);
  config.data.too_long = "skip";
  config.data.sample_ratio = preprocessing.real("sample_ratio", 1.0, 1e-9, 1.0);
  config.data.max_examples = preprocessing.integer("sample_size", 0, 0, kMany);
  if (preprocessing.has("split")) {
    Section split = preprocessing.section("split");
    split.choice("type", {"random"});
    const YAML::Node shares = split.at("probabilities");
    if (shares.IsDefined() && !shares.IsNull()) {
      if (!shares.IsSequence() || shares.size() != 3 || !shares[0].IsScalar()) {
        split.fail(shares, split.path("probabilities"), "is no list of three shares");
      }
      const double train = to_real(split.path("probabilities"), shares[0].Scalar(), 0.01, 1.0);
      config.data.eval_share = 1.0 - train;
    } else {
      config.data.eval_share = 0.3;
    }
    split.done();
  }
  preprocessing.done();
}

// "auto", and absent, is 0.
int64_t integer_or_auto(Section& trainer, const char* key) {
  return trainer.text(key, "auto") == "auto" ? 0 : trainer.integer(key, 0, 1, 1 << 20);
}

void read_batch(Section& trainer, FinetuneConfig& config) {
  const int64_t batch = integer_or_auto(trainer, "batch_size");
  const int64_t steps = integer_or_auto(trainer, "gradient_accumulation_steps");
  const int64_t effective = integer_or_auto(trainer, "effective_batch_size");
  config.training.batch_size =
      effective > 0 ? effective : (batch > 0 ? batch * std::max<int64_t>(steps, 1) : 0);
}

void read_schedule(Section scheduler, FinetuneConfig& config) {
  const std::string decay = scheduler.choice("decay", {"null", "linear", "cosine"});
  config.training.schedule = decay == "linear"   ? Decay::kLinear
                             : decay == "cosine" ? Decay::kCosine
                                                 : Decay::kConstant;
  config.training.warmup_ratio = scheduler.real("warmup_fraction", 0.0, 0.0, 1.0);
  scheduler.choice("warmup_evaluations", {"0"});
  scheduler.choice("reduce_on_plateau", {"0"});
  scheduler.choice("staircase", {"false"});
  scheduler.ignore({"decay_rate", "decay_steps", "reduce_on_plateau_patience",
                    "reduce_on_plateau_rate", "reduce_eval_metric", "reduce_eval_split", "t_0",
                    "t_mult", "eta_min"});
  scheduler.done();
}

void read_optimizer(Section optimizer, FinetuneConfig& config) {
  const std::string type =
      optimizer.choice("type", {"adam", "adamw", "paged_adam", "paged_adamw", "adam_8bit",
                                "adamw_8bit", "adam8bit", "adamw8bit", "paged_adam_8bit",
                                "paged_adamw_8bit", "paged_adam8bit", "paged_adamw8bit"});
  const bool is_8bit = type.find("8bit") != std::string::npos;
  config.training.optimizer = is_8bit ? OptimizerKind::kAdamW8bit : OptimizerKind::kAdamW;
  config.training.adam_epsilon = optimizer.real("eps", 1e-8, 1e-15, 1);
  config.training.weight_decay = optimizer.real("weight_decay", 0, 0, 10);
  if (config.training.weight_decay > 0 && type.find("adamw") == std::string::npos) {
    optimizer.refuse("weight_decay", optimizer.text("weight_decay"),
                     "0, or type: adamw, whose decay is decoupled");
  }
  optimizer.choice("amsgrad", {"false"});
  const YAML::Node betas = optimizer.at("betas");
  if (betas.IsSequence() && betas.size() == 2 && betas[0].IsScalar() && betas[1].IsScalar()) {
    const std::string name = optimizer.path("betas");
    config.training.adam_beta1 = to_real(name, betas[0].Scalar(), 0, 0.999999);
    config.training.adam_beta2 = to_real(name, betas[1].Scalar(), 0, 0.999999);
  } else if (betas.IsDefined() && !betas.IsNull()) {
    optimizer.fail(betas, optimizer.path("betas"), "is no list of two numbers");
  }
  optimizer.done();
}

// Without a scheduler's decay the rate is constant, as in Ludwig. A trainer that does not say how
// long it runs, or how large a batch is, gets our own choice.
void read_trainer(Section trainer, FinetuneConfig& config) {
  trainer.choice("type", {"finetune"});
  config.training.learning_rate = trainer.real("learning_rate", 1e-4, 1e-12, 10);
  config.training.epochs = static_cast<double>(trainer.integer("epochs", 0, 1, 1000000));
  config.training.max_steps = trainer.integer("train_steps", 0, 1, kMany);
  read_batch(trainer, config);
  read_schedule(trainer.section("learning_rate_scheduler"), config);
  read_optimizer(trainer.section("optimizer"), config);
  Section clipping = trainer.section("gradient_clipping");
  config.training.max_grad_norm =
      clipping.real("clipglobalnorm", clipping.has("clipvalue") ? 0.0 : 0.5, 0, 1e9);
  clipping.require_absent("clipvalue", "gradients are clipped by their norm");
  clipping.require_absent("clipnorm", "gradients are clipped by their norm over all parameters");
  clipping.done();
  config.training.checkpointing =
      trainer.flag("enable_gradient_checkpointing", config.training.checkpointing);
  config.training.save_every =
      trainer.integer("steps_per_checkpoint", config.training.save_every, 0, kMany);
  trainer.choice("should_shuffle", {"true"});
  trainer.choice("increase_batch_size_on_plateau", {"0"});
  trainer.real("base_learning_rate", 0, 0, 0);
  trainer.real("regularization_lambda", 0, 0, 0);
  trainer.ignore({"eval_batch_size", "evaluate_training_set", "early_stop", "validation_field",
                  "validation_metric", "checkpoints_per_epoch", "eval_steps", "max_batch_size",
                  "compile", "enable_profiling", "profiler", "use_mixed_precision",
                  "learning_rate_scaling", "regularization_type", "skip_all_evaluation",
                  "bucketing_field"});
  trainer.done();
}

}  // namespace

void read_ludwig_config(const std::string& text, const std::string& source,
                        FinetuneConfig& config) {
  Section root(YAML::Load(text), "", source);
  root.choice("model_type", {"llm"});
  if (!root.has("model_type")) {
    throw_error(ErrorCode::kInvalidArgument, source, ": has no model_type, wanted llm");
  }
  config.recipe = "causal-lm";
  config.model.path = root.text("base_model");
  QUARRY_CHECK(!config.model.path.empty(), ErrorCode::kInvalidArgument, source,
               ": has no base_model, wanted a folder, a file or a name");
  read_adapter(root, source, config.adapter);
  root.require_absent("adapters", "one adapter is trained; adapters are combined when they serve");
  read_quantization(root.section("quantization"), root.has("quantization"), config);
  read_prompt(root, source, config);
  read_preprocessing(root.section("preprocessing"), config);
  read_trainer(root.section("trainer"), config);
  Section backend = root.section("backend");
  backend.choice("type", {"local"});
  backend.ignore({"cache_dir", "cache_credentials"});
  backend.done();
  // Of answers, not of training; and what Ludwig writes down about itself.
  root.ignore({"generation", "ludwig_version"});
  root.done();
}

}  // namespace quarry
