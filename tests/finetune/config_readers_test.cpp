// Configurations of others: PEFT's adapter_config.json and Ludwig's YAML.
#include "finetune/config_readers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "data/core/error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

FinetuneConfig from_text(const std::string& text) {
  FinetuneConfig config;
  config.data.train = {"rows.jsonl"};
  read_config(text, "file", config);
  check_config(config);
  return config;
}

std::string message_of(const std::string& text) {
  try {
    from_text(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(PeftConfig, TheSeedsLoraConfigMeansWhatPeftMakesOfIt) {
  const FinetuneConfig config = from_text(R"({
    "peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 4, "lora_alpha": 8,
    "target_modules": ["q", "v"], "lora_dropout": 0.05, "bias": "none"})");
  EXPECT_EQ(config.recipe, "seq2seq");
  EXPECT_EQ(config.adapter.r, 4);
  EXPECT_EQ(config.adapter.lora_alpha, 8);
  EXPECT_THAT(config.adapter.target_modules, ElementsAre("q", "v"));
  EXPECT_EQ(config.adapter.lora_dropout, 0.05);
  EXPECT_EQ(config.adapter.bias, "none");
  EXPECT_FALSE(config.adapter.target_all_linear);
}

// Every key of PEFT 0.21, as it saves them.
TEST(PeftConfig, AFileThatPeftSavedIsReadUnchanged) {
  for (const char* folder : {"q_v", "patterns", "all_linear", "bias_all", "saved_head"}) {
    const std::string path =
        std::string(QUARRY_SOURCE_DIR "/tests/golden/peft/") + folder + "/adapter_config.json";
    FinetuneConfig config;
    config.data.train = {"rows.jsonl"};
    load_config(path, config);
    check_config(config);
    EXPECT_EQ(config.recipe, "causal-lm") << folder;
    // The run's own configuration says the same.
    FinetuneConfig again;
    read_config(to_yaml(config), "again", again);
    EXPECT_EQ(to_yaml(again), to_yaml(config)) << folder;
    const LoraSettings settings = load_peft_settings(path);
    const OrderedJson json = read_json_file(path);
    EXPECT_EQ(settings.r, json.at("r").get<int64_t>()) << folder;
    EXPECT_EQ(settings.rank_pattern.size(), json.at("rank_pattern").size()) << folder;
    EXPECT_EQ(settings.bias, json.at("bias")) << folder;
  }
  const LoraSettings classifier = load_peft_settings(
      QUARRY_SOURCE_DIR "/tests/golden/peft_classifier/bert_sequence/adapter_config.json");
  EXPECT_THAT(classifier.modules_to_save, ElementsAre("classifier", "score"));
  EXPECT_EQ(classifier.task_type, "SEQ_CLS");
}

TEST(PeftConfig, AbsentFieldsHavePeftsDefaultsNotOurs) {
  const FinetuneConfig config = from_text(R"({"peft_type": "LORA", "task_type": "SEQ_CLS"})");
  EXPECT_EQ(config.recipe, "classification");
  EXPECT_EQ(config.adapter.r, 8);
  EXPECT_EQ(config.adapter.lora_alpha, 8);
  EXPECT_TRUE(config.adapter.target_default);
  EXPECT_FALSE(config.adapter.target_all_linear);
  EXPECT_EQ(config.model.path, "");
}

TEST(PeftConfig, TargetsAreAListAPatternOrAllLinear) {
  const auto targets = [](const std::string& value) {
    return from_text(R"({"lora_alpha": 16, "target_modules": )" + value + "}").adapter;
  };
  EXPECT_TRUE(targets("\"All-Linear\"").target_all_linear);
  EXPECT_EQ(targets(R"(".*\\.(q|v)_proj")").target_pattern, ".*\\.(q|v)_proj");
  // A pattern of whole paths for PEFT, which must not become a list of names for us.
  const AdapterOptions plain = targets("\"q_proj\"");
  EXPECT_EQ(plain.target_pattern, "(?:q_proj)");
  EXPECT_THAT(plain.target_modules, IsEmpty());
  const FinetuneConfig layers = from_text(R"({"lora_alpha": 16, "target_modules": ["q"],
    "layers_to_transform": 1, "layers_pattern": "layers", "exclude_modules": ["k"],
    "rank_pattern": {"q": 2}, "alpha_pattern": {"q": 3.5}, "use_rslora": true,
    "init_lora_weights": "gaussian", "base_model_name_or_path": "my-llama"})");
  EXPECT_THAT(layers.adapter.layers_to_transform, ElementsAre(1));
  EXPECT_THAT(layers.adapter.layers_pattern, ElementsAre("layers"));
  EXPECT_EQ(layers.adapter.rank_pattern.at("q"), 2);
  EXPECT_EQ(layers.adapter.alpha_pattern.at("q"), 3.5);
  EXPECT_TRUE(layers.adapter.use_rslora);
  EXPECT_EQ(layers.adapter.init_lora_weights, "gaussian");
  EXPECT_EQ(layers.model.path, "my-llama");
  EXPECT_EQ(layers.recipe, "sft");  // no task_type: stays
}

TEST(PeftConfig, WhatWeDoNotComputeIsRefusedByNameAndItsDefaultIsNot) {
  const auto with = [](const std::string& field) {
    return message_of(R"({"peft_type": "LORA", "target_modules": ["q"], )" + field + "}");
  };
  for (const char* harmless :
       {R"("use_dora": false)", R"("megatron_config": null)", R"("loftq_config": {})",
        R"("layer_replication": [])", R"("inference_mode": true)", R"("fan_in_fan_out": true)",
        R"("revision": "main")", R"("runtime_config": {"ephemeral_gpu_offload": false})",
        R"("auto_mapping": {"base_model_class": "X"})", R"("qalora_group_size": 16)",
        R"("a_field_of_tomorrow": null)"}) {
    EXPECT_EQ(with(harmless), "no error") << harmless;
  }
  EXPECT_EQ(with(R"("use_dora": true)"),
            "file: use_dora is true, wanted its default: it is not supported");
  EXPECT_EQ(with(R"("layer_replication": [[0, 4]])"),
            "file: layer_replication is [[0,4]], wanted its default: it is not supported");
  EXPECT_EQ(with(R"("alora_invocation_tokens": [1])"),
            "file: alora_invocation_tokens is [1], wanted its default: it is not supported");
  EXPECT_EQ(with(R"("lora_alfa": 4)"),
            "file: lora_alfa is 4, and no field of PEFT 0.21's LoraConfig: is it misspelt?");
  EXPECT_EQ(
      with(R"("init_lora_weights": "eva")"),
      "file: init_lora_weights is \"eva\", wanted true, false, gaussian, pissa, pissa_niter_N "
      "or loftq");
  EXPECT_EQ(with(R"("task_type": "TOKEN_CLS")"),
            "file: task_type is TOKEN_CLS, which is not trained here, wanted CAUSAL_LM, "
            "SEQ_2_SEQ_LM or SEQ_CLS");
  EXPECT_EQ(with(R"("r": 2.5)"), "file: r is 2.5, wanted a whole number");
  EXPECT_THAT(with(R"("r": 0)"), HasSubstr("file: r is 0, wanted 1 to"));
  EXPECT_THAT(with(R"("bias": "some")"), HasSubstr("file: bias is \"some\""));
  EXPECT_EQ(with(R"("rank_pattern": [1])"),
            "file: rank_pattern is [1], wanted an object of numbers by pattern");
  EXPECT_EQ(with(R"("revision": "v2")"),
            "file: revision is \"v2\", wanted null: the base is a folder or a file of its own");
  EXPECT_EQ(message_of(R"({"peft_type": "IA3"})"), "file: peft_type is \"IA3\", wanted LORA");
  EXPECT_THAT(message_of(R"({"peft_type": "LORA", "r": 4,})"), HasSubstr("file: not valid JSON"));
  EXPECT_THAT(message_of(R"({"target_modules": "(", "lora_alpha": 1})"),
              HasSubstr("is not a regular expression"));
}

constexpr const char* kLudwig = R"(model_type: llm
base_model: ./tiny-llama
quantization: {bits: 4}
adapter: {type: lora}
prompt: {template: "### Instruction: {instruction}\n### Input: {input}\n### Response:\n"}
input_features: [{name: prompt, type: text}]
output_features: [{name: output, type: text, preprocessing: {max_sequence_length: 256}}]
trainer: {type: finetune, learning_rate: 0.0004, batch_size: 1, gradient_accumulation_steps: 8, epochs: 3, learning_rate_scheduler: {decay: cosine, warmup_fraction: 0.03}}
)";

TEST(LudwigConfig, IsReadUnchanged) {
  const FinetuneConfig config = from_text(kLudwig);
  EXPECT_EQ(config.recipe, "causal-lm");
  EXPECT_EQ(config.model.path, "./tiny-llama");
  EXPECT_EQ(config.model.load_in, "nf4");
  EXPECT_EQ(config.adapter.r, 8);
  EXPECT_EQ(config.adapter.lora_alpha, 16);
  EXPECT_EQ(config.adapter.lora_dropout, 0.05);
  EXPECT_TRUE(config.adapter.target_default);
  EXPECT_EQ(config.data.prompt_template,
            "### Instruction: {instruction}\n### Input: {input}\n### Response:\n");
  EXPECT_EQ(config.data.columns.at("completion"), "output");
  EXPECT_EQ(config.data.completion_form, "raw");
  EXPECT_EQ(config.training.learning_rate, 4e-4);
  EXPECT_EQ(config.training.batch_size, 8);
  EXPECT_EQ(config.training.epochs, 3);
  EXPECT_EQ(config.training.schedule, Decay::kCosine);
  EXPECT_EQ(config.training.warmup_ratio, 0.03);
  EXPECT_EQ(config.training.max_grad_norm, 0.5);
  FinetuneConfig again;
  read_config(to_yaml(config), "again", again);
  EXPECT_EQ(to_yaml(again), to_yaml(config));
}

// The keys of Ludwig's own example of a llama on code with 4 bits.
TEST(LudwigConfig, FeaturesWithoutATemplateAndBlockStyle) {
  const FinetuneConfig config = from_text(R"(model_type: llm
base_model: some/llama
quantization:
  bits: 4
adapter:
  type: lora
input_features:
  - name: instruction
    type: text
output_features:
  - name: output
    type: text
trainer:
  type: finetune
  learning_rate: 0.0003
  batch_size: 2
  gradient_accumulation_steps: 8
  epochs: 3
  learning_rate_scheduler:
    warmup_fraction: 0.01
backend:
  type: local
)");
  EXPECT_EQ(config.data.columns.at("prompt"), "instruction");
  EXPECT_EQ(config.data.prompt_template, "");
  EXPECT_EQ(config.training.batch_size, 16);
  EXPECT_EQ(config.training.schedule, Decay::kConstant);
  EXPECT_EQ(config.training.warmup_ratio, 0.01);
}

// A file that begins as kLudwig and has these lines as well, or instead.
std::string ludwig(const std::string& lines) {
  return "model_type: llm\nbase_model: m\ninput_features: [{name: q, type: text}]\n"
         "output_features: [{name: a, type: text}]\n" +
         lines;
}

TEST(LudwigConfig, OtherSettings) {
  const FinetuneConfig config = from_text(ludwig(R"(
adapter:
  type: lora
  r: 16
  alpha: 24
  dropout: 0
  bias_type: none
  use_rslora: true
  target_modules: [q_proj, k_proj]
  rank_pattern: {q_proj: 4}
  alpha_pattern: {q_proj: 2}
  postprocessor: {merge_adapter_into_base_model: false, progressbar: true}
quantization: {bits: 8, llm_int8_threshold: 6.0, bnb_4bit_compute_dtype: float32}
prompt: {task: "Say {it}", template: "{__task__}: {__sample__}"}
preprocessing: {global_max_sequence_length: 4096, sample_ratio: 0.5, split: {type: random, probabilities: [0.8, 0.1, 0.1]}}
trainer:
  type: finetune
  batch_size: auto
  epochs: 2
  optimizer: {type: paged_adamw_8bit, betas: [0.8, 0.9], weight_decay: 0.1}
  gradient_clipping: {clipglobalnorm: 2}
  enable_gradient_checkpointing: true
  eval_batch_size: 2
generation: {max_new_tokens: 10, temperature: 0.1}
)"));
  EXPECT_EQ(config.adapter.r, 16);
  EXPECT_EQ(config.adapter.lora_alpha, 24);
  EXPECT_EQ(config.adapter.lora_dropout, 0);
  EXPECT_TRUE(config.adapter.use_rslora);
  EXPECT_THAT(config.adapter.target_modules, ElementsAre("q_proj", "k_proj"));
  EXPECT_EQ(config.adapter.rank_pattern.at("q_proj"), 4);
  EXPECT_EQ(config.model.load_in, "int8");
  EXPECT_EQ(config.training.compute, "f32");
  EXPECT_EQ(config.data.prompt_template, "Say {{it}}: {q}");
  EXPECT_EQ(config.training.max_seq_len, 4096);
  EXPECT_EQ(config.training.micro_batch_tokens, 4096);
  EXPECT_EQ(config.data.sample_ratio, 0.5);
  EXPECT_NEAR(config.data.eval_share, 0.2, 1e-12);
  EXPECT_EQ(config.data.too_long, "skip");
  EXPECT_EQ(config.training.batch_size, 0);
  EXPECT_EQ(config.training.optimizer, OptimizerKind::kAdamW8bit);
  EXPECT_EQ(config.training.adam_beta1, 0.8);
  EXPECT_EQ(config.training.weight_decay, 0.1);
  EXPECT_EQ(config.training.max_grad_norm, 2);
  EXPECT_EQ(from_text(ludwig("adapter: lora\n")).model.load_in, "as-is");
}

TEST(LudwigConfig, WhatHasNoCounterpartIsRefusedByNameAndLine) {
  EXPECT_EQ(message_of(ludwig("")),
            "file: has no adapter, which is full fine-tuning in Ludwig and not done here, wanted "
            "adapter: {type: lora}");
  EXPECT_EQ(message_of(ludwig("adapter: adalora\n")),
            "file:5: adapter is \"adalora\", wanted lora");
  EXPECT_EQ(message_of(ludwig("adapter: {type: ia3}\n")),
            "file:5: adapter.type is \"ia3\", wanted lora");
  EXPECT_EQ(message_of("model_type: ecd\ninput_features: []\n"),
            "file:1: model_type is \"ecd\", wanted llm");
  const auto with = [](const std::string& lines) {
    return message_of(ludwig("adapter: lora\n" + lines));
  };
  EXPECT_EQ(with("trainer: {type: dpo}\n"), "file:6: trainer.type is \"dpo\", wanted finetune");
  EXPECT_EQ(with("trainer: {epochs: many}\n"),
            "file:6: trainer.epochs is \"many\", wanted a whole number from 1 to 1000000");
  EXPECT_THAT(with("trainer:\n  learning_rte: 1\n"),
              HasSubstr("file:7: trainer.learning_rte is not read here"));
  EXPECT_THAT(with("prompt: {retrieval: {type: semantic, k: 2, model_name: x}, template: '{q}'}\n"),
              HasSubstr("file:6: prompt.retrieval.type is \"semantic\", wanted null"));
  EXPECT_THAT(with("prompt: {template: 'no column'}\n"),
              HasSubstr("file:6: prompt.template the prompt template names no column"));
  EXPECT_THAT(with("prompt: {task: do it}\n"), HasSubstr("file:6: prompt.task is \"do it\""));
  EXPECT_THAT(with("hyperopt: {x: 1}\n"), HasSubstr("file:6: hyperopt is not read here"));
  EXPECT_THAT(with("backend: {type: ray}\n"),
              HasSubstr("file:6: backend.type is \"ray\", wanted local"));
  EXPECT_THAT(with("quantization: {bits: 5}\n"), HasSubstr("quantization.bits is \"5\", wanted"));
  EXPECT_THAT(with("trainer: {optimizer: {type: sgd}}\n"),
              HasSubstr("trainer.optimizer.type is \"sgd\", wanted adam, adamw"));
  EXPECT_THAT(message_of("model_type: llm\nbase_model: m\nadapter: lora\n"
                         "input_features: [{name: q, type: image}]\noutput_features: []\n"),
              HasSubstr("file:4: input_features[0].type is \"image\", wanted text"));
  EXPECT_THAT(message_of("model_type: llm\nbase_model: m\nadapter: lora\n"
                         "input_features: [{name: q, type: text}]\noutput_features: []\n"),
              HasSubstr("output_features holds 0 features, wanted one of type text"));
}

TEST(ConfigFile, IsRecognisedByItsContentAndAWrongOneChangesNothing) {
  FinetuneConfig config;
  read_config("adapter: {r: 5}\n", "ours", config);
  EXPECT_EQ(config.adapter.r, 5);
  read_config(R"({"adapter": {"r": 6}})", "ours in JSON", config);
  EXPECT_EQ(config.adapter.r, 6);
  EXPECT_THROW(read_config(R"({"lora_alpha": 4, "use_dora": true})", "peft", config), Error);
  EXPECT_THROW(read_config("model_type: llm\nbase_model: m\n", "ludwig", config), Error);
  EXPECT_EQ(config.adapter.r, 6);
  EXPECT_EQ(config.model.path, "");
  EXPECT_THROW(read_config("adapter: [", "broken", config), Error);
  const test::TemporaryFolder folder;
  std::ofstream(folder.path() / "lora.json") << R"({"r": 3, "target_modules": ["q"]})";
  load_config(folder.path() / "lora.json", config);
  EXPECT_EQ(config.adapter.r, 3);
  EXPECT_THROW(load_config(folder.path(), config), Error);
  EXPECT_THROW(load_config(folder.path() / "none", config), Error);
}

}  // namespace
}  // namespace quarry
