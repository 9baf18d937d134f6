#include <algorithm>
#include <limits>

#include "finetune/config.h"
#include "finetune/config_text.h"

namespace quarry {
namespace {

using namespace config_text;

constexpr int64_t kMany = int64_t{1} << 40;

// Each function makes a field of one type. `member` is a generic lambda from a FinetuneConfig,
// const or not, to the member.

ConfigField field(const char* name, const char* help) {
  ConfigField result;
  result.name = name;
  result.help = help;
  return result;
}

template <typename Member>
ConfigField text(const char* name, const char* help, const Member& member) {
  ConfigField result = field(name, help);
  result.set = [member](FinetuneConfig& c, const std::string& value) { member(c) = value; };
  result.get = [member](const FinetuneConfig& c) { return member(c); };
  return result;
}

// `choices` of a text.
template <typename Member>
ConfigField choice(const char* name, const char* help, std::vector<std::string> choices,
                   const Member& member) {
  ConfigField result = text(name, help, member);
  result.set = [name, choices = std::move(choices), member](FinetuneConfig& c,
                                                            const std::string& value) {
    member(c) = choices[to_choice(name, value, choices)];
  };
  return result;
}

// `choices` of an enumeration, in its order.
template <typename Enum, typename Member>
ConfigField enumeration(const char* name, const char* help, std::vector<std::string> choices,
                        const Member& member) {
  ConfigField result = field(name, help);
  result.set = [name, choices, member](FinetuneConfig& c, const std::string& value) {
    member(c) = static_cast<Enum>(to_choice(name, value, choices));
  };
  result.get = [choices, member](const FinetuneConfig& c) {
    return choices.at(static_cast<size_t>(member(c)));
  };
  return result;
}

template <typename Member>
ConfigField integer(const char* name, const char* help, int64_t min, int64_t max,
                    const Member& member) {
  ConfigField result = field(name, help);
  result.set = [name, min, max, member](FinetuneConfig& c, const std::string& value) {
    member(c) = to_integer(name, value, min, max);
  };
  result.get = [member](const FinetuneConfig& c) { return std::to_string(member(c)); };
  return result;
}

template <typename Member>
ConfigField real(const char* name, const char* help, double min, double max, const Member& member) {
  ConfigField result = field(name, help);
  result.set = [name, min, max, member](FinetuneConfig& c, const std::string& value) {
    member(c) = to_real(name, value, min, max);
  };
  result.get = [member](const FinetuneConfig& c) { return from_real(member(c)); };
  return result;
}

template <typename Member>
ConfigField flag(const char* name, const char* help, const Member& member) {
  ConfigField result = field(name, help);
  result.set = [name, member](FinetuneConfig& c, const std::string& value) {
    member(c) = to_flag(name, value);
  };
  result.get = [member](const FinetuneConfig& c) { return member(c) ? "true" : "false"; };
  return result;
}

template <typename Member>
ConfigField text_list(const char* name, const char* help, const Member& member) {
  ConfigField result = field(name, help);
  result.kind = ConfigField::Kind::kList;
  result.set = [name, member](FinetuneConfig& c, const std::string& value) {
    member(c) = to_list(name, value);
  };
  result.get = [member](const FinetuneConfig& c) { return from_list(member(c)); };
  return result;
}

template <typename Member>
ConfigField integer_list(const char* name, const char* help, const Member& member) {
  ConfigField result = field(name, help);
  result.kind = ConfigField::Kind::kList;
  result.set = [name, member](FinetuneConfig& c, const std::string& value) {
    std::vector<int64_t> numbers;
    for (const std::string& item : to_list(name, value)) {
      numbers.push_back(to_integer(name, item, 0, kMany));
    }
    member(c) = std::move(numbers);
  };
  result.get = [member](const FinetuneConfig& c) {
    std::vector<std::string> items;
    for (const int64_t number : member(c)) items.push_back(std::to_string(number));
    return from_list(items);
  };
  return result;
}

// `read(name, text)` and `write(value)` convert one value.
template <typename Member, typename Read, typename Write>
ConfigField map(const char* name, const char* help, const Member& member, const Read& read,
                const Write& write) {
  ConfigField result = field(name, help);
  result.kind = ConfigField::Kind::kMap;
  result.set = [name, member, read](FinetuneConfig& c, const std::string& value) {
    std::decay_t<decltype(member(c))> values;
    for (const auto& [key, item] : to_map(name, value))
      values[key] = read(concat(name, ".", key), item);
    member(c) = std::move(values);
  };
  result.get = [member, write](const FinetuneConfig& c) {
    std::vector<std::pair<std::string, std::string>> items;
    for (const auto& [key, value] : member(c)) items.emplace_back(key, write(value));
    return from_map(items);
  };
  return result;
}

// PEFT's three ways to name modules in one text. A text of module names alone ("q_proj,v_proj") is
// a list; any other is a pattern.
struct ModuleChoice {
  std::vector<std::string> names;
  std::string pattern;
};

ModuleChoice to_modules(const std::string& name, const std::string& value) {
  constexpr const char* kNameCharacters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-, ";
  ModuleChoice modules;
  const bool is_list = value.empty() || value[0] == '[' ||
                       value.find_first_not_of(kNameCharacters) == std::string::npos;
  if (is_list) {
    modules.names = to_list(name, value);
  } else {
    modules.pattern = value;
  }
  return modules;
}

ConfigField target_modules() {
  constexpr const char* kName = "adapter.target_modules";
  ConfigField result =
      field(kName,
            "modules that are adapted: all-linear, a list of names (q_proj,v_proj), "
            "a pattern of whole paths, or default: PEFT's of the family");
  result.kind = ConfigField::Kind::kList;
  result.set = [](FinetuneConfig& c, const std::string& value) {
    c.adapter.target_all_linear = value == "all-linear";
    c.adapter.target_default = value == "default";
    const ModuleChoice modules = c.adapter.target_all_linear || c.adapter.target_default
                                     ? ModuleChoice()
                                     : to_modules(kName, value);
    c.adapter.target_modules = modules.names;
    c.adapter.target_pattern = modules.pattern;
  };
  result.get = [](const FinetuneConfig& c) -> std::string {
    if (c.adapter.target_all_linear) return "all-linear";
    if (c.adapter.target_default) return "default";
    if (!c.adapter.target_pattern.empty()) return c.adapter.target_pattern;
    return from_list(c.adapter.target_modules);
  };
  return result;
}

ConfigField exclude_modules() {
  constexpr const char* kName = "adapter.exclude_modules";
  ConfigField result = field(kName, "modules that are left alone: a list or a pattern");
  result.kind = ConfigField::Kind::kList;
  result.set = [](FinetuneConfig& c, const std::string& value) {
    const ModuleChoice modules = to_modules(kName, value);
    c.adapter.exclude_modules = modules.names;
    c.adapter.exclude_pattern = modules.pattern;
  };
  result.get = [](const FinetuneConfig& c) {
    return c.adapter.exclude_pattern.empty() ? from_list(c.adapter.exclude_modules)
                                             : c.adapter.exclude_pattern;
  };
  return result;
}

using Fields = std::vector<ConfigField>;

void add_model_and_data(Fields& f) {
  f.push_back(choice(
      "recipe",
      "sft: given answers; causal-lm, seq2seq: the same of a decoder, of an encoder-decoder; "
      "classification: labels; contrastive, reranker: which passages answer; the others: "
      "passages are latent",
      {"sft", "causal-lm", "seq2seq", "classification", "contrastive", "reranker", "rag-sequence",
       "rag-token", "replug-lsr", "distill"},
      [](auto& c) -> auto& { return c.recipe; }));
  f.push_back(text(
      "model.path", "folder, .gguf or name of the base model; empty: the default",
      [](auto& c) -> auto& { return c.model.path; }));
  f.push_back(choice(
      "model.load_in", "how the frozen base is kept",
      {"as-is", "nf4", "fp4", "int8", "bf16", "f32"},
      [](auto& c) -> auto& { return c.model.load_in; }));
  f.push_back(text_list(
      "data.train", "training files or folders", [](auto& c) -> auto& { return c.data.train; }));
  f.push_back(text_list(
      "data.eval", "files for evaluation while training",
      [](auto& c) -> auto& { return c.data.eval; }));
  f.push_back(text(
      "data.format", "format of the files; auto: by the first row",
      [](auto& c) -> auto& { return c.data.format; }));
  f.push_back(map(
      "data.columns",
      "columns of CSV files, of completions and of labelled texts: {prompt: q, completion: a}",
      [](auto& c) -> auto& { return c.data.columns; },
      [](const std::string&, const std::string& item) { return item; },
      [](const std::string& value) { return value; }));
  f.push_back(text(
      "data.prompt_template", "prompt of completions from columns: \"Question: {question}\"",
      [](auto& c) -> auto& { return c.data.prompt_template; }));
  f.push_back(choice(
      "data.chat_targets", "assistant messages that are learned", {"last", "all"},
      [](auto& c) -> auto& { return c.data.chat_targets; }));
  f.push_back(choice(
      "data.completion_form", "prompt and completion as a chat or as raw text", {"chat", "raw"},
      [](auto& c) -> auto& { return c.data.completion_form; }));
  f.push_back(text(
      "data.squad_passages", "passages of SQuAD questions in JSON Lines",
      [](auto& c) -> auto& { return c.data.squad_passages; }));
  f.push_back(choice(
      "data.too_long", "rows that exceed max_seq_len without passages", {"error", "skip"},
      [](auto& c) -> auto& { return c.data.too_long; }));
  f.push_back(integer(
      "data.max_examples", "training rows used; 0: all", 0, kMany,
      [](auto& c) -> auto& { return c.data.max_examples; }));
  f.push_back(real(
      "data.sample_ratio", "share of the training rows used", 1e-9, 1,
      [](auto& c) -> auto& { return c.data.sample_ratio; }));
  f.push_back(real(
      "data.eval_share", "share of the training rows kept for evaluation; without data.eval", 0,
      0.99, [](auto& c) -> auto& { return c.data.eval_share; }));
  f.push_back(integer(
      "data.max_eval_examples", "evaluation rows used; 0: all", 0, kMany,
      [](auto& c) -> auto& { return c.data.max_eval_examples; }));
}

void add_passages(Fields& f) {
  f.push_back(choice(
      "passages.mode", "where passages come from", {"given", "gold", "retrieved", "mixed"},
      [](auto& c) -> auto& { return c.passages.mode; }));
  f.push_back(text(
      "passages.index", "index folder for retrieved passages",
      [](auto& c) -> auto& { return c.passages.index; }));
  f.push_back(choice(
      "passages.retrieval_mode", "how passages are found", {"hybrid", "dense", "lexical"},
      [](auto& c) -> auto& { return c.passages.retrieval_mode; }));
  f.push_back(integer(
      "passages.top_k", "most passages in a prompt", 1, 100,
      [](auto& c) -> auto& { return c.passages.top_k; }));
  f.push_back(real(
      "passages.gold_share", "mixed: share of prompts with the answering passage alone", 0, 1,
      [](auto& c) -> auto& { return c.passages.gold_share; }));
  f.push_back(real(
      "passages.unanswerable_share", "share whose passages lack the answer", 0, 0.9,
      [](auto& c) -> auto& { return c.passages.unanswerable_share; }));
  f.push_back(real(
      "passages.gold_removed_share",
      "share of retrieved prompts whose answering passage is taken out", 0, 1,
      [](auto& c) -> auto& { return c.passages.gold_removed_share; }));
  f.push_back(integer(
      "passages.questions_per_group", "questions that share a list of passages", 1, 4096,
      [](auto& c) -> auto& { return c.passages.questions_per_group; }));
  f.push_back(text(
      "passages.rag_template", "prompt template; empty: the default",
      [](auto& c) -> auto& { return c.passages.rag_template; }));
  f.push_back(integer(
      "passages.prompt_tokens", "passages stop at this length of the prompt", 64, kMany,
      [](auto& c) -> auto& { return c.passages.prompt_tokens; }));
}

void add_rag(Fields& f) {
  f.push_back(choice(
      "rag.train", "what learns where passages are latent", {"both", "generator", "query-encoder"},
      [](auto& c) -> auto& { return c.rag.train; }));
  f.push_back(real(
      "rag.temperature", "of the softmax over the passages' cosines", 1e-4, 1e4,
      [](auto& c) -> auto& { return c.rag.temperature; }));
  f.push_back(flag(
      "rag.train_passage_encoder",
      "passages are embedded with the query encoder's adapter, which learns from them too",
      [](auto& c) -> auto& { return c.rag.train_passage_encoder; }));
  f.push_back(integer(
      "rag.over_retrieve",
      "passages taken by the index's vectors, of which the top_k nearest by the encoder as it is "
      "now are kept; 0: top_k",
      0, 1000, [](auto& c) -> auto& { return c.rag.over_retrieve; }));
  f.push_back(integer(
      "rag.refresh_every", "steps within which all passages are embedded anew, in memory; 0: never",
      0, kMany, [](auto& c) -> auto& { return c.rag.refresh_every; }));
  f.push_back(flag(
      "rag.abstain",
      "learn to reply that a passage does not hold the answer where it does not spell it out",
      [](auto& c) -> auto& { return c.rag.abstain; }));
  f.push_back(flag(
      "rag.stop_on_collapse", "the run ends when retrieval has collapsed for 5 steps",
      [](auto& c) -> auto& { return c.rag.stop_on_collapse; }));
}

void add_retrieval(Fields& f) {
  f.push_back(real(
      "distill.temperature", "of the softmax over the answer's likelihoods by which passages teach",
      1e-4, 1e4, [](auto& c) -> auto& { return c.distill.temperature; }));
  f.push_back(integer(
      "contrastive.hard_negatives", "passages without an answer that are mined for each question",
      0, 1000, [](auto& c) -> auto& { return c.contrastive.hard_negatives; }));
  f.push_back(integer(
      "contrastive.candidates", "passages found for a question, of which these are mined", 1, 1000,
      [](auto& c) -> auto& { return c.contrastive.candidates; }));
  f.push_back(real(
      "contrastive.temperature", "of the softmax over the passages' cosines", 1e-4, 1e4,
      [](auto& c) -> auto& { return c.contrastive.temperature; }));
}

void add_query_encoder(Fields& f) {
  f.push_back(integer(
      "query_encoder.r", "rank of its adapter", 1, kMaxLoraRank,
      [](auto& c) -> auto& { return c.query_encoder.r; }));
  f.push_back(real(
      "query_encoder.lora_alpha", "scale is lora_alpha / r", 1e-6, 1e6,
      [](auto& c) -> auto& { return c.query_encoder.lora_alpha; }));
  f.push_back(real(
      "query_encoder.learning_rate", "peak learning rate of its adapter", 1e-12, 10,
      [](auto& c) -> auto& { return c.query_encoder.learning_rate; }));
  f.push_back(text(
      "query_encoder.start_from", "adapter folder to go on from",
      [](auto& c) -> auto& { return c.query_encoder.start_from; }));
}

void add_adapter(Fields& f) {
  f.push_back(integer(
      "adapter.r", "rank", 1, kMaxLoraRank, [](auto& c) -> auto& { return c.adapter.r; }));
  f.push_back(real(
      "adapter.lora_alpha", "scale is lora_alpha / r", 1e-6, 1e6,
      [](auto& c) -> auto& { return c.adapter.lora_alpha; }));
  f.push_back(flag(
      "adapter.use_rslora", "scale is lora_alpha / sqrt(r)",
      [](auto& c) -> auto& { return c.adapter.use_rslora; }));
  f.push_back(real(
      "adapter.lora_dropout", "dropout of the adapter's input while training", 0, 0.99,
      [](auto& c) -> auto& { return c.adapter.lora_dropout; }));
  f.push_back(target_modules());
  f.push_back(exclude_modules());
  const auto read_rank = [](const std::string& name, const std::string& item) {
    return to_integer(name, item, 1, kMaxLoraRank);
  };
  f.push_back(map(
      "adapter.rank_pattern", "rank by pattern: {down_proj: 8}",
      [](auto& c) -> auto& { return c.adapter.rank_pattern; }, read_rank,
      [](int64_t value) { return std::to_string(value); }));
  const auto read_alpha = [](const std::string& name, const std::string& item) {
    return to_real(name, item, 1e-6, 1e6);
  };
  f.push_back(map(
      "adapter.alpha_pattern", "lora_alpha by pattern",
      [](auto& c) -> auto& { return c.adapter.alpha_pattern; }, read_alpha, from_real));
  f.push_back(integer_list(
      "adapter.layers_to_transform", "layers that are adapted; empty: all",
      [](auto& c) -> auto& { return c.adapter.layers_to_transform; }));
  f.push_back(text_list(
      "adapter.layers_pattern", "names of the lists that hold the layers",
      [](auto& c) -> auto& { return c.adapter.layers_pattern; }));
  f.push_back(text_list(
      "adapter.modules_to_save", "modules trained in full and kept",
      [](auto& c) -> auto& { return c.adapter.modules_to_save; }));
  f.push_back(choice(
      "adapter.bias", "biases that are trained", {"none", "all", "lora_only"},
      [](auto& c) -> auto& { return c.adapter.bias; }));
  f.push_back(text(
      "adapter.init_lora_weights", "true (Kaiming), false, gaussian, pissa, pissa_niter_N or loftq",
      [](auto& c) -> auto& { return c.adapter.init_lora_weights; }));
  f.push_back(text(
      "adapter.loftq_weights", "loftq: folder of the base before it was quantized (safetensors)",
      [](auto& c) -> auto& { return c.adapter.loftq_weights; }));
  f.push_back(text(
      "adapter.start_from", "adapter folder to go on from",
      [](auto& c) -> auto& { return c.adapter.start_from; }));
}

void add_optimization(Fields& f) {
  f.push_back(real(
      "training.epochs", "passes over the data; 0: one, and up to 20 of fewer than 640 rows", 0,
      1e6, [](auto& c) -> auto& { return c.training.epochs; }));
  f.push_back(integer(
      "training.max_steps", "optimizer steps; 0: by epochs", 0, kMany,
      [](auto& c) -> auto& { return c.training.max_steps; }));
  f.push_back(integer(
      "training.batch_size",
      "sequences of one optimizer step, for each process; 0: 16 in all, fewer for few rows", 0,
      1 << 20, [](auto& c) -> auto& { return c.training.batch_size; }));
  f.push_back(integer(
      "training.micro_batch_tokens", "tokens of one forward pass", 16, 1 << 24,
      [](auto& c) -> auto& { return c.training.micro_batch_tokens; }));
  f.push_back(integer(
      "training.max_seq_len", "longest sequence in tokens", 16, 1 << 24,
      [](auto& c) -> auto& { return c.training.max_seq_len; }));
  f.push_back(flag(
      "training.packing", "several sequences in a row of tokens",
      [](auto& c) -> auto& { return c.training.packing; }));
  f.push_back(real(
      "training.learning_rate", "peak learning rate", 1e-12, 10,
      [](auto& c) -> auto& { return c.training.learning_rate; }));
  f.push_back(enumeration<Decay>(
      "training.schedule", "decay of the learning rate", {"constant", "linear", "cosine"},
      [](auto& c) -> auto& { return c.training.schedule; }));
  f.push_back(real(
      "training.warmup_ratio", "share of the steps that warm up", 0, 1,
      [](auto& c) -> auto& { return c.training.warmup_ratio; }));
  f.push_back(integer(
      "training.warmup_steps", "steps that warm up; -1: by warmup_ratio", -1, kMany,
      [](auto& c) -> auto& { return c.training.warmup_steps; }));
  f.push_back(real(
      "training.weight_decay", "decoupled weight decay", 0, 10,
      [](auto& c) -> auto& { return c.training.weight_decay; }));
  f.push_back(real(
      "training.max_grad_norm", "gradients are clipped to this norm; 0: never", 0, 1e9,
      [](auto& c) -> auto& { return c.training.max_grad_norm; }));
  f.push_back(enumeration<OptimizerKind>(
      "training.optimizer", "AdamW with 32 or 8 bits of state", {"adamw", "adamw8bit"},
      [](auto& c) -> auto& { return c.training.optimizer; }));
  f.push_back(real(
      "training.adam_beta1", "decay of the first moment", 0, 0.999999,
      [](auto& c) -> auto& { return c.training.adam_beta1; }));
  f.push_back(real(
      "training.adam_beta2", "decay of the second moment", 0, 0.999999,
      [](auto& c) -> auto& { return c.training.adam_beta2; }));
  f.push_back(real(
      "training.adam_epsilon", "added to the denominator", 1e-15, 1,
      [](auto& c) -> auto& { return c.training.adam_epsilon; }));
}

void add_run(Fields& f) {
  f.push_back(choice(
      "training.compute", "arithmetic of forward and backward", {"bf16", "f32"},
      [](auto& c) -> auto& { return c.training.compute; }));
  f.push_back(flag(
      "training.checkpointing", "recompute activations in backward",
      [](auto& c) -> auto& { return c.training.checkpointing; }));
  ConfigField seed = field("training.seed", "of data order, initial weights and dropout");
  seed.set = [](FinetuneConfig& c, const std::string& value) {
    c.training.seed = to_unsigned("training.seed", value);
  };
  seed.get = [](const FinetuneConfig& c) { return std::to_string(c.training.seed); };
  f.push_back(std::move(seed));
  f.push_back(integer(
      "training.eval_every", "steps between evaluations; 0: each epoch", 0, kMany,
      [](auto& c) -> auto& { return c.training.eval_every; }));
  f.push_back(integer(
      "training.save_every", "steps between checkpoints; 0: only at the end", 0, kMany,
      [](auto& c) -> auto& { return c.training.save_every; }));
  f.push_back(integer(
      "training.save_total_limit", "checkpoints kept; 0: all", 0, kMany,
      [](auto& c) -> auto& { return c.training.save_total_limit; }));
  f.push_back(integer(
      "training.threads", "0: the physical cores", 0, 4096,
      [](auto& c) -> auto& { return c.training.threads; }));
}

Fields make_fields() {
  Fields fields;
  add_model_and_data(fields);
  add_passages(fields);
  add_rag(fields);
  add_retrieval(fields);
  add_adapter(fields);
  add_optimization(fields);
  add_run(fields);
  add_query_encoder(fields);
  fields.push_back(text(
      "output_dir", "run folder", [](auto& c) -> auto& { return c.output_dir; }));
  const FinetuneConfig defaults;
  for (ConfigField& field : fields) field.default_text = field.get(defaults);
  return fields;
}

}  // namespace

const std::vector<ConfigField>& config_fields() {
  static const std::vector<ConfigField> fields = make_fields();
  return fields;
}

}  // namespace quarry
