// The rows of the document that this program grew from, each by its name, on tiny models: PEFT's
// LoraConfig on a T5, classification by a BERT, load_in_8bit and load_in_4bit of an OPT, Ludwig's
// YAML on code, and several adapters on one base. What only the real models have, their counts,
// comes from their shapes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "data/core/hash.h"
#include "data/core/json.h"
#include "finetune/config_readers.h"
#include "finetune/model_shape.h"
#include "finetune/run.h"
#include "generator/decode/adapter_set.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kEncoderDecoders = QUARRY_SOURCE_DIR "/tests/golden/encoder_decoders/";
constexpr const char* kOpt = QUARRY_SOURCE_DIR "/tests/golden/families/opt";

// r=4, lora_alpha=8, target_modules=["q", "v"], lora_dropout=0.05, bias="none",
// task_type=TaskType.SEQ_2_SEQ_LM, as PEFT saves it.
constexpr const char* kLoraConfig = R"({
  "peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": 4, "lora_alpha": 8,
  "target_modules": ["q", "v"], "lora_dropout": 0.05, "bias": "none", "inference_mode": true,
  "base_model_name_or_path": "google/flan-t5-base", "fan_in_fan_out": false, "use_dora": false})";

class SeedRow : public ::testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.path() / name, std::ios::binary) << text;
    return folder_.path() / name;
  }
  // What every row has: a seed, an output folder, and passes of a few tokens.
  FinetuneConfig config(const std::string& out) const {
    FinetuneConfig config;
    config.training.max_seq_len = 128;
    config.training.micro_batch_tokens = 512;
    config.training.batch_size = 6;
    config.training.max_steps = 30;
    config.training.learning_rate = 0.02;
    config.training.save_every = 0;
    config.output_dir = (folder_.path() / out).string();
    return config;
  }
  FinetuneOutcome train(const FinetuneConfig& config) {
    losses_.clear();
    FinetuneEvents events;
    events.on_step = [this](const StepResult& result, int64_t, double) {
      losses_.push_back(result.loss);
    };
    return FinetuneRun(config).train(false, events);
  }
  void expect_falls(double factor) const {
    ASSERT_GE(losses_.size(), 10u);
    EXPECT_LT(losses_.back(), factor * losses_.front());
  }
  // Instruction, input and output, as flytech/python-codes-25k has them.
  fs::path write_code_rows(const std::string& name) const {
    std::string rows = "instruction,input,output\n";
    for (int i = 0; i < 20; ++i) {
      const std::string number = std::to_string(i);
      rows += "Add " + number + " to a list,xs,xs.append(" + number + ")\n";
    }
    return write(name, rows);
  }
  fs::path write_letter_pairs() const {
    std::string rows;
    for (char letter = 'b'; letter < 'h'; ++letter) {
      rows += std::string(R"({"prompt": "say )") + letter + R"(", "completion": ")" + letter +
              letter + "\"}\n";
    }
    return write("pairs.jsonl", rows);
  }

  test::TemporaryFolder folder_;
  std::vector<double> losses_;
};

TEST_F(SeedRow, LoraConfigOnAFlanT5) {
  const fs::path lora = write("adapter_config.json", kLoraConfig);
  FinetuneConfig options = config("t5");
  load_config(lora, options);
  EXPECT_EQ(options.recipe, "seq2seq");
  EXPECT_EQ(options.model.path, "google/flan-t5-base");
  options.model.path = std::string(kEncoderDecoders) + "t5_gated";
  options.data.train = {write_letter_pairs().string()};
  options.data.completion_form = "raw";
  // q and v of 2 encoder and, twice, of 3 decoder layers: 4 (32 + 24) each.
  EXPECT_THAT(to_text(FinetuneRun(options).plan()), HasSubstr("trainable params: 3,584 || "));
  const FinetuneOutcome outcome = train(options);
  expect_falls(0.8);
  const Json saved = read_json_file(outcome.last_adapter / "adapter_config.json");
  EXPECT_EQ(saved.at("task_type"), "SEQ_2_SEQ_LM");
  EXPECT_EQ(saved.at("target_modules"), Json::array({"q", "v"}));
  EXPECT_EQ(saved.at("lora_dropout"), 0.05);
  // The same file counted on the real model.
  EXPECT_EQ(
      format_trainable(count_trainable(find_model_shape("flan-t5-base"), load_peft_settings(lora))),
      "trainable params: 442,368 || all params: 248,020,224 || trainable%: 0.1784");
}

TEST_F(SeedRow, BertForSequenceClassification) {
  FinetuneConfig options = config("bert");
  load_config(write("adapter_config.json",
                    R"({"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 8, "lora_alpha": 16})"),
              options);
  EXPECT_EQ(options.recipe, "classification");
  options.model.path = write_tiny_bert_folder(folder_.path() / "model", 3).string();
  std::string rows;
  for (int i = 0; i < 200; ++i) {
    const char first = static_cast<char>((i % 2 != 0 ? 'n' : 'a') + i / 2 % 13);
    const char second = static_cast<char>((i % 2 != 0 ? 'n' : 'a') + i * 7 % 13);
    rows += std::string(R"({"text": ")") + first + ' ' + second + ' ' + first + R"(", "label": )" +
            std::to_string(i % 2) + "}\n";
  }
  options.data.train = {write("labels.jsonl", rows).string()};
  options.data.eval_share = 0.25;
  options.training.learning_rate = 5e-3;
  options.training.batch_size = 16;
  options.training.max_steps = 60;
  const FinetuneOutcome outcome = train(options);
  expect_falls(0.3);
  ASSERT_EQ(outcome.eval_figures.size(), 1u);
  EXPECT_EQ(outcome.eval_figures[0].first, "accuracy");
  EXPECT_GE(outcome.eval_figures[0].second, 0.9);
  const Json saved = read_json_file(outcome.last_adapter / "adapter_config.json");
  EXPECT_EQ(saved.at("task_type"), "SEQ_CLS");
  EXPECT_EQ(saved.at("target_modules"), Json::array({"query", "value"}));
  EXPECT_EQ(saved.at("modules_to_save"), Json::array({"classifier", "score"}));
}

// model = AutoModelForCausalLM.from_pretrained(model_id, load_in_8bit=True), or load_in_4bit=True;
// of an OPT. transformers takes FP4 for the second when it is told no more, QLoRA means NF4.
class SeedRowOfAnOpt : public SeedRow, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(LoadIn, SeedRowOfAnOpt, ::testing::Values("int8", "nf4", "fp4"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SeedRowOfAnOpt, LearnsWithItsWeightsInFewBits) {
  FinetuneConfig options = config("opt");
  load_config(write("adapter_config.json",
                    R"({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8,
                        "target_modules": ["q_proj", "v_proj"]})"),
              options);
  EXPECT_EQ(options.recipe, "causal-lm");
  options.model.path = kOpt;
  options.model.load_in = GetParam();
  options.data.train = {write_letter_pairs().string()};
  options.data.completion_form = "raw";
  options.training.max_seq_len = 48;
  const std::string base = sha256_file_hex(fs::path(kOpt) / "model.safetensors");
  const FinetuneOutcome outcome = train(options);
  expect_falls(0.8);
  EXPECT_EQ(sha256_file_hex(fs::path(kOpt) / "model.safetensors"), base);

  // The quantized model and the dense one with this adapter say much the same: PEFT's own bar.
  GeneratorOptions quantized;
  quantized.weights.load_in = parse_load_in(GetParam());
  std::vector<std::vector<float>> logits;
  for (const GeneratorOptions& how : {GeneratorOptions(), quantized}) {
    const LoadedGenerator loaded = load_generator(kOpt, how);
    const auto adapter = LoraAdapter::load(outcome.last_adapter, *loaded.model);
    logits.push_back(testing_util::all_logits(*loaded.model, {5, 9, 4, 12, 7}, adapter.get()));
  }
  double xy = 0.0;
  double xx = 0.0;
  double yy = 0.0;
  for (size_t i = 0; i < logits[0].size(); ++i) {
    xy += double{logits[0][i]} * double{logits[1][i]};
    xx += double{logits[0][i]} * double{logits[0][i]};
    yy += double{logits[1][i]} * double{logits[1][i]};
  }
  EXPECT_GE(xy / std::sqrt(xx * yy), 0.9);
  EXPECT_NE(logits[0], logits[1]) << "nothing was quantized";
}

TEST_F(SeedRow, TrainableParametersOfTheRealOpt) {
  const fs::path lora = write("adapter_config.json",
                              R"({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8,
                                  "target_modules": ["q_proj", "v_proj"]})");
  EXPECT_EQ(
      format_trainable(count_trainable(find_model_shape("opt-125m"), load_peft_settings(lora))),
      "trainable params: 294,912 || all params: 125,534,208 || trainable%: 0.2349");
  // PEFT's default targets of the family are the same.
  const fs::path bare = write("bare.json", R"({"peft_type": "LORA", "r": 8})");
  EXPECT_EQ(count_trainable(find_model_shape("opt-125m"), load_peft_settings(bare)).trainable,
            294912);
}

TEST_F(SeedRow, LudwigYamlOnPythonCodeRows) {
  const fs::path model = write_tiny_llama_gguf(folder_.path(), 3);
  FinetuneConfig options = config("ludwig");
  load_config(write("llama.yaml", "model_type: llm\nbase_model: " + model.string() + R"(
quantization: {bits: 4}
adapter: {type: lora}
prompt:
  template: |
    ### Instruction: {instruction}
    ### Input: {input}
    ### Response:
input_features: [{name: prompt, type: text}]
output_features: [{name: output, type: text, preprocessing: {max_sequence_length: 256}}]
trainer:
  type: finetune
  learning_rate: 0.01
  batch_size: 1
  gradient_accumulation_steps: 4
  epochs: 8
  learning_rate_scheduler: {decay: cosine, warmup_fraction: 0.03}
preprocessing: {split: {type: random, probabilities: [0.8, 0.1, 0.1]}}
)"),
              options);
  options.data.train = {write_code_rows("code.csv").string()};
  options.training.max_steps = 0;  // by its epochs
  EXPECT_EQ(options.model.load_in, "nf4");
  const std::string first = to_text(FinetuneRun(options).plan());
  EXPECT_THAT(first, HasSubstr("### Instruction: Add "));
  EXPECT_THAT(first, HasSubstr("\n### Input: xs\n### Response:\n\xC2\xAB"));
  const FinetuneOutcome outcome = train(options);
  EXPECT_EQ(outcome.steps, 32);  // 16 of the 20 rows, 4 of them a step
  EXPECT_GT(outcome.best_eval_loss, 0.0);
  EXPECT_LT(outcome.best_eval_loss, losses_.front());
  expect_falls(0.8);
  const Json saved = read_json_file(outcome.last_adapter / "adapter_config.json");
  EXPECT_EQ(saved.at("r"), 8);
  EXPECT_EQ(saved.at("lora_alpha"), 16);
  EXPECT_EQ(saved.at("target_modules"), Json::array({"q_proj", "v_proj"}));
}

// The same rows by the recipe's own name, from the columns instruction, input and output.
TEST_F(SeedRow, CausalLmOnPythonCodeRows) {
  FinetuneConfig options = config("code");
  options.recipe = "causal-lm";
  options.model.path = write_tiny_llama_gguf(folder_.path(), 3).string();
  options.data.train = {write_code_rows("code.csv").string()};
  options.training.learning_rate = 0.004;
  train(options);
  expect_falls(0.6);
  options.recipe = "seq2seq";
  options.output_dir = (folder_.path() / "wrong").string();
  try {
    train(options);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("has no encoder, wanted recipe causal-lm"));
  }
}

// "Multiple LoRA fine-tunings atop the same base": two are trained in turn, then fused, unfused,
// and switched between.
TEST_F(SeedRow, TwoAdaptersFusedAndUnfused) {
  const fs::path model = write_tiny_llama_gguf(folder_.path(), 3);
  const std::string base_hash = sha256_file_hex(model);
  std::vector<fs::path> adapters;
  for (const char* name : {"letters", "code"}) {
    FinetuneConfig options = config(name);
    options.recipe = "causal-lm";
    options.model.path = model.string();
    const fs::path rows =
        name == std::string("code") ? write_code_rows("c.csv") : write_letter_pairs();
    options.data.train = {rows.string()};
    options.training.learning_rate = 0.004;
    options.training.max_steps = 10;
    adapters.push_back(train(options).last_adapter);
    expect_falls(0.99);
    EXPECT_EQ(sha256_file_hex(model), base_hash);
  }
  const auto generator = std::make_shared<const LoadedGenerator>(
      load_generator(model.string(), kernels::Precision::kFast));
  AdapterSet set(generator, 64);
  set.load("letters", adapters[0]);
  set.load("code", adapters[1]);
  const auto logits = [&](const std::string& name) {
    const auto served = set.acquire(name);
    return testing_util::all_logits(*generator->model, {5, 17, 250, 3, 99, 42},
                                    served->weights.get());
  };
  const auto largest_difference = [](const std::vector<float>& a, const std::vector<float>& b) {
    float largest = 0.0f;
    for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
    return largest;
  };
  const std::vector<float> base = logits("");
  const std::vector<float> letters = logits("letters");
  const std::vector<float> code = logits("code");
  EXPECT_GT(largest_difference(base, letters), 1e-2f);
  EXPECT_GT(largest_difference(letters, code), 1e-2f);
  set.fuse({{"letters", 1.0}});
  EXPECT_LT(largest_difference(logits(""), letters), 1e-4f);
  set.fuse({{"letters", 1.0}, {"code", 0.5}});
  EXPECT_GT(largest_difference(logits(""), letters), 1e-3f);
  EXPECT_EQ(logits("code"), code);
  set.unfuse();
  EXPECT_EQ(logits(""), base);
  EXPECT_EQ(logits("letters"), letters);
}

}  // namespace
}  // namespace quarry
