#include "finetune/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#include "data/core/closest_name.h"
#include "data/core/error.h"
#include "data/core/hash.h"
#include "finetune/config_readers.h"

namespace quarry {
namespace {

const ConfigField* find_field(const std::string& name) {
  for (const ConfigField& field : config_fields()) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

std::string last_component(const std::string& name) { return name.substr(name.rfind('.') + 1); }

// What the last component of a field is called by our flags and elsewhere.
std::string our_word(const std::string& word) {
  static const std::pair<const char*, const char*> kOthers[] = {{"rank", "r"},
                                                                {"lora_r", "r"},
                                                                {"alpha", "lora_alpha"},
                                                                {"lr", "learning_rate"},
                                                                {"num_train_epochs", "epochs"}};
  for (const auto& [other, ours] : kOthers) {
    if (word == other) return ours;
  }
  return word;
}

// By the last component, in the section that is named before others; empty when no name is near.
std::string nearest_name(const std::string& name) {
  const std::string last = last_component(name);
  const std::string section = name.substr(0, name.size() - last.size());
  std::vector<const ConfigField*> fields;
  for (const ConfigField& field : config_fields()) fields.push_back(&field);
  std::stable_partition(fields.begin(), fields.end(), [&section](const ConfigField* field) {
    return field->name.compare(0, section.size(), section) == 0;
  });
  std::vector<std::string> components;
  for (const ConfigField* field : fields) components.push_back(last_component(field->name));
  const std::optional<size_t> nearest = closest_name(our_word(last), components);
  return nearest ? fields[*nearest]->name : "";
}

[[noreturn]] void throw_unknown(const std::string& name) {
  const std::string nearest = nearest_name(name);
  throw_error(ErrorCode::kInvalidArgument, "unknown option \"", name.substr(0, 100), "\": ",
              nearest.empty() ? "`quarry finetune --fields` lists those there are"
                              : "did you mean " + nearest + "?");
}

bool is_section(const std::string& name) {
  return std::any_of(config_fields().begin(), config_fields().end(), [&](const ConfigField& field) {
    return field.name.compare(0, name.size() + 1, name + ".") == 0;
  });
}

// A value as ConfigField::set() wants it.
std::string value_text(const YAML::Node& value) {
  if (value.IsScalar()) return value.Scalar();
  if (value.IsNull()) return "";
  YAML::Emitter out;
  out << YAML::Flow << value;
  return out.c_str();
}

class YamlReader {
 public:
  YamlReader(std::string source, FinetuneConfig& config)
      : source_(std::move(source)), config_(config) {}

  void read(const YAML::Node& node, const std::string& prefix) {
    for (const auto& item : node) {
      check(item.first, item.first.IsScalar(), "a key is not a name");
      const std::string name = prefix + item.first.Scalar();
      if (const ConfigField* field = find_field(name)) {
        check(item.first, seen_.insert(name).second, name + " is given twice");
        set(*field, item.second);
      } else if (is_section(name)) {
        check(item.second, item.second.IsMap() || item.second.IsNull(),
              name + " is a section, wanted options below it");
        if (item.second.IsMap()) read(item.second, name + ".");
      } else {
        at_line(item.first, [&] { throw_unknown(name); });
      }
    }
  }

 private:
  template <typename Action>
  void at_line(const YAML::Node& node, const Action& action) {
    try {
      action();
    } catch (const Error& error) {
      throw_error(error.code(), source_, ":", node.Mark().line + 1, ": ", error.what());
    }
  }
  void check(const YAML::Node& node, bool ok, const std::string& message) {
    at_line(node, [&] { QUARRY_CHECK(ok, ErrorCode::kInvalidArgument, message); });
  }
  void set(const ConfigField& field, const YAML::Node& value) {
    const bool is_list = value.IsSequence() && field.kind == ConfigField::Kind::kList;
    const bool is_map = value.IsMap() && field.kind == ConfigField::Kind::kMap;
    check(value, is_list || is_map || value.IsScalar() || value.IsNull(),
          concat(field.name, " is a ", value.IsMap() ? "map" : "list", ", wanted ",
                 field.kind == ConfigField::Kind::kMap    ? "a map"
                 : field.kind == ConfigField::Kind::kList ? "a list"
                                                          : "one value"));
    for (const auto& item : value) {
      const YAML::Node& inner = is_map ? item.second : item;
      check(value, inner.IsScalar(), field.name + " holds something that is not one value");
    }
    at_line(value, [&] { field.set(config_, value_text(value)); });
  }

  std::string source_;
  FinetuneConfig& config_;
  std::set<std::string> seen_;
};

void require(bool ok, const std::string& message) {
  QUARRY_CHECK(ok, ErrorCode::kInvalidArgument, message);
}

void check_adapter(const FinetuneConfig& config) {
  const AdapterOptions& adapter = config.adapter;
  const bool names_targets = adapter.target_all_linear || !adapter.target_pattern.empty() ||
                             !adapter.target_modules.empty();
  require(!adapter.target_default || !names_targets,
          "adapter.target_modules is default and names modules, wanted one of the two");
  try {
    LoraSettings settings = adapter;
    if (adapter.target_default) settings.target_modules = {"any"};
    lora_settings_json(settings);
  } catch (const Error& error) {
    throw_error(error.code(), "adapter.", error.what());
  }
  const std::string& init = adapter.init_lora_weights;
  require(is_lora_init(init),
          concat("adapter.init_lora_weights is \"", init,
                 "\", wanted true, false, gaussian, pissa, pissa_niter_N or loftq"));
  const std::string& load_in = config.model.load_in;
  require(init != "loftq" || (load_in != "bf16" && load_in != "f32"),
          concat("adapter.init_lora_weights is loftq and model.load_in ", load_in,
                 ": LoftQ makes up for the error of a quantized base; wanted nf4"));
  require(
      init != "loftq" || !adapter.start_from.empty() || !adapter.loftq_weights.empty(),
      "adapter.init_lora_weights is loftq and adapter.loftq_weights empty, wanted the folder of "
      "the base before it was quantized");
  require(init == "loftq" || adapter.loftq_weights.empty(),
          concat("adapter.loftq_weights is set and adapter.init_lora_weights ", init,
                 ", wanted loftq"));
}

void check_data(const FinetuneConfig& config) {
  static const std::set<std::string> kRoles = {"id",     "question", "answer",     "context",
                                               "title",  "prompt",   "completion", "text",
                                               "second", "label"};
  require(!config.data.train.empty(), "data.train is empty, wanted at least one file");
  for (const auto& [role, column] : config.data.columns) {
    require(
        kRoles.count(role) == 1,
        concat("data.columns has a role \"", role,
               "\", wanted id, question, answer, context, title, prompt, completion, text, second "
               "or label"));
    require(!column.empty(), concat("data.columns.", role, " is empty, wanted a column's name"));
  }
  const std::string& mode = config.passages.mode;
  require(
      (mode != "retrieved" && mode != "mixed") || !config.passages.index.empty(),
      concat("passages.mode is ", mode, " and passages.index is empty, wanted an index folder"));
}

void check_encoder(const FinetuneConfig& config) {
  const std::string recipe = "recipe is " + config.recipe + " and ";
  require(config.model.load_in == "as-is",
          concat(recipe, "model.load_in ", config.model.load_in,
                 ": an encoder is kept as its file has it, wanted as-is"));
  require(config.adapter.bias == "none", concat(recipe, "adapter.bias ", config.adapter.bias,
                                                ": the encoder's biases are not trained, wanted "
                                                "none"));
  const std::string& init = config.adapter.init_lora_weights;
  require(init == "true" || init == "false" || init == "gaussian",
          concat(recipe, "adapter.init_lora_weights ", init, ", wanted true, false or gaussian"));
}

// Of what is mined from an index.
void check_contrastive(const FinetuneConfig& config) {
  const bool is_reranker = config.recipe == "reranker";
  if (config.recipe != "contrastive" && !is_reranker) return;
  require(
      !config.passages.index.empty(),
      concat("recipe is ", config.recipe, " and passages.index is empty, wanted an index folder"));
  require(is_reranker || config.model.path.empty(),
          concat("recipe is contrastive and model.path ", config.model.path,
                 ": what learns is the encoder of the index's questions, wanted none"));
  require(!is_reranker || !config.model.path.empty(),
          "recipe is reranker and model.path empty, wanted a cross-encoder or an encoder of the "
          "BERT family");
  require(is_reranker || config.adapter.start_from.empty(),
          concat("recipe is contrastive and adapter.start_from ", config.adapter.start_from,
                 ": what learns is query_encoder.start_from, wanted none"));
  require(
      config.contrastive.candidates >= config.contrastive.hard_negatives,
      concat("contrastive.candidates is ", config.contrastive.candidates,
             ", wanted at least contrastive.hard_negatives, ", config.contrastive.hard_negatives));
  const bool has_others = !is_reranker && config.training.batch_size != 1;
  require(config.contrastive.hard_negatives > 0 || has_others,
          concat("contrastive.hard_negatives is 0", is_reranker ? "" : " and training.batch_size 1",
                 ": there is no passage to tell the right one from, wanted more"));
}

// What a recipe cannot use.
void check_recipe(const FinetuneConfig& config) {
  require(config.data.eval.empty() || config.data.eval_share == 0,
          concat("data.eval_share is ", config.data.eval_share,
                 " and data.eval names files, wanted one of the two"));
  if (config.recipe == "sft" || config.is_rag()) return;
  require(config.passages.mode == "given",
          concat("recipe is ", config.recipe, " and passages.mode ", config.passages.mode,
                 ": its passages are not those of a prompt, wanted given"));
  if (config.is_of_encoder()) check_encoder(config);
}

void check_rag(const FinetuneConfig& config) {
  require(config.is_rag() || !config.rag.train_passage_encoder,
          concat("recipe is ", config.recipe,
                 " and rag.train_passage_encoder true: it does not train one, wanted false"));
  const bool learns_to_answer = config.recipe == "rag-sequence" || config.recipe == "rag-token";
  require(!config.rag.abstain || (learns_to_answer && config.trains_generator()),
          concat("recipe is ", config.recipe, ", rag.train ", config.rag.train,
                 " and rag.abstain true: no generator learns from latent passages, wanted "
                 "rag-sequence or rag-token, and both or generator"));
  if (!config.is_rag()) return;
  require(
      !config.passages.index.empty(),
      concat("recipe is ", config.recipe, " and passages.index is empty, wanted an index folder"));
  require(config.recipe != "replug-lsr" || config.rag.train == "query-encoder",
          concat("recipe is replug-lsr and rag.train ", config.rag.train,
                 ": the generator learns nothing from it, wanted query-encoder"));
  require(config.recipe != "distill" || config.rag.train != "generator",
          "recipe is distill and rag.train generator: that is the teacher, wanted query-encoder");
  require(!config.rag.train_passage_encoder || config.rag.train != "generator",
          "rag.train_passage_encoder is true and rag.train generator: no encoder learns, wanted "
          "both or query-encoder");
  const auto require_passages = [&config](const char* name, int64_t value) {
    require(value == 0 || config.rag.train_passage_encoder,
            concat(name, " is ", value,
                   " and rag.train_passage_encoder false: the index is never out of date, wanted "
                   "true"));
  };
  require_passages("rag.over_retrieve", config.rag.over_retrieve);
  require_passages("rag.refresh_every", config.rag.refresh_every);
  require(config.rag.over_retrieve == 0 || config.rag.over_retrieve >= config.passages.top_k,
          concat("rag.over_retrieve is ", config.rag.over_retrieve,
                 ", wanted at least passages.top_k, ", config.passages.top_k));
}

}  // namespace

bool FinetuneConfig::is_rag() const {
  return recipe == "rag-sequence" || recipe == "rag-token" || recipe == "replug-lsr" ||
         recipe == "distill";
}

bool FinetuneConfig::trains_generator() const {
  return rag.train != "query-encoder" && recipe != "distill";
}

bool FinetuneConfig::is_of_encoder() const {
  return recipe == "classification" || recipe == "contrastive" || recipe == "reranker";
}

AdamWOptions FinetuneConfig::adamw_options() const {
  AdamWOptions options;
  options.beta1 = training.adam_beta1;
  options.beta2 = training.adam_beta2;
  options.epsilon = training.adam_epsilon;
  options.weight_decay = training.weight_decay;
  return options;
}

LearningRateSchedule FinetuneConfig::learning_rate_schedule(int64_t num_steps) const {
  LearningRateSchedule schedule;
  schedule.decay = training.schedule;
  schedule.peak = training.learning_rate;
  schedule.num_steps = num_steps;
  schedule.warmup_steps = warmup_steps(training.warmup_steps, training.warmup_ratio, num_steps);
  return schedule;
}

void set_config_field(FinetuneConfig& config, const std::string& name, const std::string& text) {
  const ConfigField* field = find_field(name);
  if (field == nullptr) throw_unknown(name);
  field->set(config, text);
}

void read_config_yaml(const std::string& text, const std::string& source, FinetuneConfig& config) {
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw_error(ErrorCode::kInvalidArgument, source, ":", error.mark.line + 1,
                ": not YAML: ", error.msg);
  }
  if (root.IsNull()) return;
  QUARRY_CHECK(root.IsMap(), ErrorCode::kInvalidArgument, source,
               ":1: not a map of options, wanted \"model:\", \"data:\" ...");
  FinetuneConfig changed = config;
  YamlReader(source, changed).read(root, "");
  config = std::move(changed);
}

void load_config_yaml(const std::filesystem::path& path, FinetuneConfig& config) {
  read_config_yaml(read_config_text(path), path.string(), config);
}

std::string to_yaml(const FinetuneConfig& config) {
  std::string yaml;
  std::string section;
  for (const ConfigField& field : config_fields()) {
    const size_t dot = field.name.find('.');
    const std::string own_section = dot == std::string::npos ? "" : field.name.substr(0, dot);
    if (own_section != section && !own_section.empty()) yaml += own_section + ":\n";
    section = own_section;
    const std::string value = field.get(config);
    YAML::Emitter scalar;
    const bool is_flow = field.kind != ConfigField::Kind::kScalar && !value.empty() &&
                         (value[0] == '[' || value[0] == '{');
    if (!is_flow) scalar << value;
    yaml += (section.empty() ? "" : "  ") + last_component(field.name) + ": " +
            (is_flow ? value : std::string(scalar.c_str())) + "\n";
  }
  return yaml;
}

void check_config(const FinetuneConfig& config) {
  FinetuneConfig copy = config;
  for (const ConfigField& field : config_fields()) field.set(copy, field.get(config));
  check_data(config);
  check_recipe(config);
  check_rag(config);
  check_contrastive(config);
  check_adapter(config);
  const TrainingOptions& training = config.training;
  require(training.micro_batch_tokens >= training.max_seq_len,
          concat("training.micro_batch_tokens is ", training.micro_batch_tokens,
                 ", wanted at least training.max_seq_len, ", training.max_seq_len,
                 ": a sequence is not split"));
  require(training.max_steps == 0 || training.warmup_steps < training.max_steps,
          concat("training.warmup_steps is ", training.warmup_steps,
                 ", wanted fewer than training.max_steps, ", training.max_steps));
  require(!config.output_dir.empty(), "output_dir is empty, wanted a folder");
}

std::string config_hash(const FinetuneConfig& config) {
  static const std::set<std::string> kFree = {
      "output_dir",          "rag.stop_on_collapse",      "training.eval_every",
      "training.save_every", "training.save_total_limit", "training.threads"};
  std::string text;
  for (const ConfigField& field : config_fields()) {
    if (kFree.count(field.name) == 0) text += field.name + "=" + field.get(config) + "\n";
  }
  return sha256_hex(text);
}

int64_t automatic_batch_size(size_t rows) {
  constexpr int64_t kFewest = 4;
  constexpr int64_t kMost = 16;
  constexpr size_t kStepsAnEpoch = 5;
  return std::clamp(static_cast<int64_t>(rows / kStepsAnEpoch), kFewest, kMost);
}

double automatic_epochs(size_t rows) {
  constexpr double kRowsToSee = 640;
  constexpr double kMostEpochs = 20;
  const double wanted = std::round(kRowsToSee / static_cast<double>(std::max<size_t>(rows, 1)));
  return std::clamp(wanted, 1.0, kMostEpochs);
}

}  // namespace quarry
