#include "finetune/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "generator/nn/lora.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class FinetuneRunTest : public ::testing::Test {
 protected:
  FinetuneRunTest() : model_(write_tiny_llama_gguf(folder_.path(), 3)) {
    std::ofstream rows(folder_.path() / "rows.jsonl");
    for (int i = 0; i < 10; ++i) {
      rows << R"({"id": "r)" << i << R"(", "question": "What is )" << i
           << R"( called?", "answer": "name )" << i * 7 << R"(", "context": "In this place )" << i
           << R"( is called name )" << i * 7 << R"(."})"
           << "\n";
    }
  }
  FinetuneConfig config(const std::string& out) const {
    FinetuneConfig config;
    config.model.path = model_.string();
    config.data.train = {(folder_.path() / "rows.jsonl").string()};
    config.adapter.r = 4;
    config.adapter.lora_dropout = 0.1;
    config.training.max_seq_len = 512;
    config.training.micro_batch_tokens = 512;
    config.training.batch_size = 3;
    config.training.max_steps = 7;
    config.training.save_every = 2;
    config.output_dir = (folder_.path() / out).string();
    return config;
  }
  std::string weights(const std::string& out) const {
    return test::read_file(folder_.path() / out / "last" / "adapter_model.safetensors");
  }
  // The message of a run that must fail.
  static std::string error_of(const FinetuneConfig& config, bool resume = false,
                              const FinetuneEvents& events = {}) {
    try {
      FinetuneRun(config).train(resume, events);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  test::TemporaryFolder folder_;
  std::filesystem::path model_;
};

TEST_F(FinetuneRunTest, ResumedRunIsBitEqualAndTheBaseIsUntouched) {
  const std::string base = sha256_file_hex(model_);
  const FinetuneOutcome whole = FinetuneRun(config("whole")).train(false, {});
  EXPECT_EQ(whole.steps, 7);
  EXPECT_GT(whole.train_loss, 0.0);

  CancelFlag cancel;
  FinetuneEvents events;
  events.cancel = &cancel;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    if (result.step == 3) cancel.cancel();
  };
  EXPECT_THAT(error_of(config("cut"), false, events), HasSubstr("training: cancelled"));
  EXPECT_EQ(FinetuneRun(config("cut")).train(true, {}).steps, 7);
  EXPECT_EQ(weights("cut"), weights("whole"));
  EXPECT_NE(weights("whole"), "");
  // metrics.jsonl has every step once.
  const std::string metrics = test::read_file(folder_.path() / "cut" / "metrics.jsonl");
  for (int step = 1; step <= 7; ++step) {
    const std::string key = "\"step\":" + std::to_string(step) + ",";
    const size_t at = metrics.find(key);
    ASSERT_NE(at, std::string::npos) << step;
    EXPECT_EQ(metrics.find(key, at + 1), std::string::npos) << step;
  }
  EXPECT_EQ(sha256_file_hex(model_), base);
}

// What kill -9 leaves: the state of the last checkpoint, later lines in the log.
TEST_F(FinetuneRunTest, ResumeFromAnOlderCheckpointIsBitEqual) {
  FinetuneRun(config("whole")).train(false, {});
  FinetuneConfig killed = config("killed");
  killed.training.save_total_limit = 0;
  FinetuneRun(killed).train(false, {});
  for (const char* later : {"checkpoint-6", "checkpoint-7"}) {
    std::filesystem::remove_all(folder_.path() / "killed" / later);
  }
  FinetuneRun(killed).train(true, {});
  EXPECT_EQ(weights("killed"), weights("whole"));
}

TEST_F(FinetuneRunTest, ResumesAtAnEpochsEnd) {
  const auto options = [&](const std::string& out) {
    FinetuneConfig by_fives = config(out);
    by_fives.training.batch_size = 5;
    by_fives.training.max_steps = 4;
    by_fives.training.save_total_limit = 0;
    return by_fives;
  };
  FinetuneRun(options("whole")).train(false, {});
  FinetuneRun(options("cut")).train(false, {});
  std::filesystem::remove_all(folder_.path() / "cut" / "checkpoint-4");
  EXPECT_EQ(FinetuneRun(options("cut")).train(true, {}).steps, 4);
  EXPECT_EQ(weights("cut"), weights("whole"));
}

// Whole parameters and PiSSA's starting pairs go through checkpoints too.
TEST_F(FinetuneRunTest, ResumedRunWithWholeParametersAndPissaIsBitEqual) {
  const auto options = [&](const std::string& out) {
    FinetuneConfig with_all = config(out);
    with_all.adapter.modules_to_save = {"lm_head", "norm"};
    with_all.adapter.init_lora_weights = "pissa_niter_4";
    with_all.training.max_steps = 3;
    return with_all;
  };
  FinetuneRun(options("whole")).train(false, {});
  CancelFlag cancel;
  FinetuneEvents events;
  std::string notes;
  events.cancel = &cancel;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    if (result.step == 2) cancel.cancel();
  };
  events.note = [&](const std::string& line) { notes += line + "\n"; };
  EXPECT_THAT(error_of(options("cut"), false, events), HasSubstr("training: cancelled"));
  EXPECT_THAT(notes, HasSubstr("The base ties its output head to the embedding"));
  FinetuneRun(options("cut")).train(true, {});
  EXPECT_EQ(weights("cut"), weights("whole"));
  // What is saved is plain LoRA of twice the rank for the base as it is.
  const LoadedGenerator loaded = load_generator(model_.string(), kernels::Precision::kFast);
  const auto adapter = LoraAdapter::load(folder_.path() / "cut" / "last", *loaded.model);
  EXPECT_EQ(adapter->weights().begin()->second.rank, 8);
  EXPECT_EQ(adapter->full().size(), 6u);
  EXPECT_NE(adapter->find_full("lm_head.weight")->values,
            loaded.model->tensor_values("lm_head.weight"));
}

TEST_F(FinetuneRunTest, LeavesARunFolderAndAnAdapterThatServesTheModel) {
  FinetuneConfig with_eval = config("run");
  with_eval.data.eval = with_eval.data.train;
  with_eval.training.eval_every = 3;
  const FinetuneOutcome outcome = FinetuneRun(with_eval).train(false, {});
  const std::filesystem::path run = folder_.path() / "run";
  for (const char* name : {"config.yaml", "environment.json", "metrics.jsonl", "loss_curve.svg",
                           "last/adapter_config.json", "last/quarry_adapter.json", "last/README.md",
                           "best/adapter_model.safetensors"}) {
    EXPECT_TRUE(std::filesystem::exists(run / name)) << name;
  }
  const Json environment = read_json_file(run / "environment.json");
  EXPECT_EQ(environment["data_files"][0]["num_examples"], 10);
  EXPECT_GT(outcome.best_eval_loss, 0.0);
  EXPECT_THAT(test::read_file(run / "metrics.jsonl"), HasSubstr("\"phase\":\"eval\""));
  const LoadedGenerator loaded = load_generator(model_.string(), kernels::Precision::kFast);
  const auto adapter = LoraAdapter::load(run / "last", *loaded.model);
  EXPECT_EQ(adapter->weights().size(), 14u);
  // The resolved configuration describes the same run.
  FinetuneConfig again;
  load_config_yaml(run / "config.yaml", again);
  EXPECT_EQ(again.training.epochs, 20.0);  // a handful of rows
  with_eval.training.epochs = again.training.epochs;
  EXPECT_EQ(config_hash(again), config_hash(with_eval));
}

TEST_F(FinetuneRunTest, RefusesAFolderWithARunAndOtherOptions) {
  FinetuneRun(config("run")).train(false, {});
  EXPECT_THAT(error_of(config("run")), HasSubstr("holds a run already; continue it with --resume"));
  FinetuneConfig other = config("run");
  other.training.learning_rate = 1e-5;
  const std::string before =
      test::read_file(std::filesystem::path(other.output_dir) / "config.yaml");
  EXPECT_THAT(error_of(other, true),
              AllOf(HasSubstr("made with other options than these"), HasSubstr("learning_rate: ")));
  EXPECT_EQ(test::read_file(std::filesystem::path(other.output_dir) / "config.yaml"), before);
}

TEST_F(FinetuneRunTest, TrainsOnAQuantizedBase) {
  for (const char* load_in : {"nf4", "fp4", "int8", "bf16"}) {
    FinetuneConfig quantized = config(load_in);
    quantized.model.load_in = load_in;
    const FinetuneOutcome outcome = FinetuneRun(quantized).train(false, {});
    EXPECT_GT(outcome.steps, 0) << load_in;
    EXPECT_TRUE(std::isfinite(outcome.train_loss)) << load_in;
    const LoadedGenerator base = load_generator(model_.string(), kernels::Precision::kFast);
    EXPECT_NE(LoraAdapter::load(outcome.last_adapter, *base.model), nullptr);
  }
}

TEST_F(FinetuneRunTest, DryRunTellsCountsMemoryAndTheFirstBatch) {
  const std::string text = to_text(FinetuneRun(config("dry")).plan());
  EXPECT_THAT(text, HasSubstr("trainable params: "));
  EXPECT_THAT(text, HasSubstr("optimizer steps  about 7"));
  EXPECT_THAT(text, HasSubstr("Memory at the peak"));
  EXPECT_THAT(text, HasSubstr("«"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "dry"));
  // 299 x 64 of the head and 5 norms of 64 beside the adapter's 4 (2 (64 + 64) + 2 (64 + 32) +
  // 3 (64 + 128)) of 2 layers.
  FinetuneConfig saved = config("dry");
  saved.adapter.modules_to_save = {"lm_head", "norm"};
  EXPECT_THAT(to_text(FinetuneRun(saved).plan()), HasSubstr("trainable params: 27,648 || "));
}

// Rows of prompt and completion on a model whose encoder reads the prompt, as a user runs it.
TEST_F(FinetuneRunTest, EncoderDecodersLearnPromptsAndCompletions) {
  std::ofstream rows(folder_.path() / "pairs.jsonl");
  for (int i = 0; i < 6; ++i) {
    const char letter = static_cast<char>('b' + i);
    rows << R"({"prompt": "say )" << letter << R"(", "completion": ")" << letter << letter
         << R"("})"
         << "\n";
  }
  rows.close();
  for (const std::string name : {"t5_gated", "bart"}) {
    FinetuneConfig options = config(name);
    options.model.path = std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoder_decoders/" + name;
    options.data.train = {(folder_.path() / "pairs.jsonl").string()};
    options.adapter.target_all_linear = false;
    options.adapter.target_modules = name == "bart" ? std::vector<std::string>{"q_proj", "v_proj"}
                                                    : std::vector<std::string>{"q", "v"};
    options.adapter.lora_dropout = 0.05;
    options.training.max_seq_len = 32;
    options.training.batch_size = 6;
    options.training.max_steps = 30;
    options.training.learning_rate = 0.03;
    options.training.save_every = 30;
    std::vector<double> losses;
    FinetuneEvents events;
    events.on_step = [&](const StepResult& result, int64_t, double) {
      losses.push_back(result.loss);
    };
    FinetuneRun(options).train(false, events);
    ASSERT_EQ(losses.size(), 30u);
    EXPECT_LT(losses.back(), 0.8 * losses.front()) << name;
    EXPECT_THAT(test::read_file(folder_.path() / name / "last" / "adapter_config.json"),
                HasSubstr("SEQ_2_SEQ_LM"));
    const LoadedGenerator loaded = load_generator(options.model.path, kernels::Precision::kFast);
    const auto adapter = LoraAdapter::load(folder_.path() / name / "last", *loaded.model);
    // q and v of two encoder layers, and twice of three decoder layers.
    EXPECT_EQ(adapter->weights().size(), 2u * (2 + 2 * 3));
  }
}

}  // namespace
}  // namespace quarry
