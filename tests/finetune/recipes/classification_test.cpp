// The recipe `classification` as a user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/core/json.h"
#include "finetune/recipes/classifier_trainer.h"
#include "finetune/run.h"
#include "generator/decode/random.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_save.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

class Classification : public ::testing::Test {
 protected:
  Classification() : model_(write_tiny_bert_folder(folder_.path() / "bert", 3)) {
    write_rows("train.jsonl", 160, 1);
    write_rows("dev.jsonl", 60, 2);
  }

  // Texts of letters from one half of the alphabet.
  void write_rows(const std::string& name, int count, uint64_t seed) const {
    SplitMix64 random(seed);
    std::ofstream rows(folder_.path() / name);
    for (int i = 0; i < count; ++i) {
      const bool late = random.next() % 2 != 0;
      std::string text;
      for (int word = 0; word < 3; ++word) {
        if (word > 0) text += ' ';
        for (int letter = 0; letter < 3; ++letter) {
          text += static_cast<char>((late ? 'n' : 'a') + random.next() % 13);
        }
      }
      rows << R"({"id": ")" << name << i << R"(", "text": ")" << text << R"(", "label": ")"
           << (late ? "late" : "early") << "\"}\n";
    }
  }
  FinetuneConfig config(const std::string& out) const {
    FinetuneConfig config;
    config.recipe = "classification";
    config.model.path = model_.string();
    config.data.train = {(folder_.path() / "train.jsonl").string()};
    config.data.eval = {(folder_.path() / "dev.jsonl").string()};
    config.adapter.r = 4;
    config.adapter.lora_dropout = 0.1;
    config.training.learning_rate = 3e-3;
    config.training.epochs = 6;
    config.training.batch_size = 16;
    config.training.save_every = 20;
    config.training.compute = "f32";
    config.output_dir = (folder_.path() / out).string();
    return config;
  }
  static std::string error_of(const FinetuneConfig& config) {
    try {
      FinetuneRun(config).train(false, {});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  test::TemporaryFolder folder_;
  std::filesystem::path model_;
};

double figure(const FinetuneOutcome& outcome, const std::string& name) {
  for (const auto& [key, value] : outcome.eval_figures) {
    if (key == name) return value;
  }
  return -1;
}

TEST_F(Classification, ATinyBertLearnsAndItsAdapterReloadsToTheSameLogits) {
  const std::string base = sha256_file_hex(model_ / "model.safetensors");
  FinetuneEvents events;
  std::string notes;
  events.note = [&](const std::string& line) { notes += line + "\n"; };
  std::vector<double> losses;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    losses.push_back(result.loss);
  };
  const FinetuneOutcome outcome = FinetuneRun(config("run")).train(false, events);
  EXPECT_NEAR(losses.front(), std::log(2.0), 0.1);  // of a head that knows nothing
  EXPECT_GE(figure(outcome, "accuracy"), 0.95);
  EXPECT_THAT(notes, HasSubstr("The base has no classification head: one for 2 labels is made"));
  EXPECT_THAT(notes, HasSubstr(", accuracy "));
  EXPECT_EQ(sha256_file_hex(model_ / "model.safetensors"), base);

  // What PEFT reads: LoRA pairs, and the classifier as one of modules_to_save.
  const std::filesystem::path last = folder_.path() / "run" / "last";
  const Json saved = read_json_file(last / "adapter_config.json");
  EXPECT_EQ(saved.at("task_type"), "SEQ_CLS");
  EXPECT_EQ(saved.at("modules_to_save"), Json::array({"classifier", "score"}));
  EXPECT_THAT(test::read_file(last / "README.md"),
              HasSubstr("Labels: early, late. Accuracy on 60 evaluation rows"));
  const AdapterNotes kept = *read_adapter_notes(last);
  EXPECT_EQ(kept.labels, (std::vector<std::string>{"early", "late"}));

  NewHeadOptions head;
  head.labels = kept.labels;
  head.seed = 77;  // what is drawn is replaced
  const auto loaded = load_sequence_classifier(model_.string(), kernels::Precision::kExact, head);
  const auto adapter =
      LoraAdapter::load(last, loaded.model->linear_slots(), loaded.model->tensor_slots());
  EXPECT_EQ(adapter->weights().size(), 2u * 6u + 1u);
  EXPECT_EQ(adapter->full().size(), 2u);
  std::vector<TextInput> texts;
  std::vector<size_t> labels;
  std::ifstream rows(folder_.path() / "dev.jsonl");
  for (std::string line; std::getline(rows, line);) {
    const Json row = Json::parse(line);
    texts.push_back({row.at("text").get<std::string>(), std::nullopt});
    labels.push_back(row.at("label") == "late" ? 1 : 0);
  }
  const std::vector<float> logits =
      loaded.model->logits(loaded.model->encode(texts), adapter.get());
  double loss = 0.0;
  double right = 0.0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const float* row = logits.data() + 2 * i;
    loss += label_loss(row, 2, static_cast<int64_t>(labels[i]), 1.0, nullptr);
    right += (row[1] > row[0]) == (labels[i] == 1) ? 1.0 : 0.0;
  }
  EXPECT_EQ(right / 60.0, figure(outcome, "accuracy"));
  const std::string metrics = test::read_file(folder_.path() / "run" / "metrics.jsonl");
  const Json last_line = Json::parse(metrics.substr(metrics.rfind("{\"")));
  EXPECT_EQ(last_line.at("phase"), "eval");
  EXPECT_NEAR(last_line.at("loss").get<double>(), loss / 60.0, 1e-9);
}

TEST_F(Classification, ResumedRunIsBitEqual) {
  FinetuneConfig whole = config("whole");
  whole.training.epochs = 2;
  FinetuneRun(whole).train(false, {});
  FinetuneConfig cut = config("cut");
  cut.training.epochs = 2;
  CancelFlag cancel;
  FinetuneEvents events;
  events.cancel = &cancel;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    if (result.step == 13) cancel.cancel();
  };
  EXPECT_THROW(FinetuneRun(cut).train(false, events), Error);
  EXPECT_EQ(FinetuneRun(cut).train(true, {}).steps, 20);
  const auto weights = [&](const char* name) {
    return test::read_file(folder_.path() / name / "last" / "adapter_model.safetensors");
  };
  EXPECT_EQ(weights("cut"), weights("whole"));
  EXPECT_NE(weights("cut"), "");
}

// A batch in several passes is the batch.
TEST_F(Classification, StepsDoNotDependOnThePasses) {
  FinetuneConfig options = config("a");
  options.adapter.lora_dropout = 0;
  options.training.max_steps = 3;
  options.training.max_seq_len = options.training.micro_batch_tokens = 16;
  FinetuneRun(options).train(false, {});
  options.training.micro_batch_tokens = 4096;
  options.output_dir = (folder_.path() / "b").string();
  FinetuneRun(options).train(false, {});
  const auto loaded =
      load_sequence_classifier(model_.string(), kernels::Precision::kExact, {{"early", "late"}, 1});
  const auto load = [&](const char* name) {
    return LoraAdapter::load(folder_.path() / name / "last", loaded.model->linear_slots(),
                             loaded.model->tensor_slots());
  };
  const auto a = load("a");
  const auto b = load("b");
  for (const auto& [path, pair] : a->weights()) {
    for (size_t i = 0; i < pair.b.size(); ++i) {
      ASSERT_NEAR(pair.b[i], b->find(path)->b[i], 2e-5) << path;
    }
  }
}

TEST_F(Classification, RowsAreHeldOutAndADryRunTellsCounts) {
  FinetuneConfig options = config("share");
  options.data.eval.clear();
  options.data.eval_share = 0.25;
  options.training.epochs = 1;
  FinetuneRun run(options);
  const std::string text = to_text(run.plan());
  EXPECT_THAT(text, HasSubstr("training rows    120\n"));
  // 4 x (6 matrices of each of 2 layers, and the pooler); 2 x 64 + 2 of the head, made and copied.
  const int64_t lora = 4 * (2 * (4 * 128 + 2 * 192) + 128);
  EXPECT_THAT(text, HasSubstr(concat("trainable params: ", lora / 1000, ",", lora % 1000 + 130)));
  EXPECT_THAT(text, HasSubstr(" 11 tokens: "));
  options.training.max_seq_len = 16;  // no text is longer
  EXPECT_THAT(to_text(FinetuneRun(options).plan()), HasSubstr(" 11 tokens: "));
  const FinetuneOutcome outcome = FinetuneRun(options).train(false, {});
  EXPECT_GT(figure(outcome, "accuracy"), 0.0);
}

TEST_F(Classification, PairsOfTextsAndAnExistingHead) {
  std::ofstream rows(folder_.path() / "pairs.csv");
  rows << "sentence1,sentence2,label\nthe moon,the sea,no\nsea,river,2\nfirst,two,maybe\n"
          "who,what,yes\n";
  rows.close();
  FinetuneConfig options = config("pairs");
  options.model.path = QUARRY_SOURCE_DIR "/tests/golden/encoders/roberta_sequence";
  options.data.train = {(folder_.path() / "pairs.csv").string()};
  options.data.eval = options.data.train;
  options.adapter.target_all_linear = false;
  options.adapter.target_default = true;
  options.training.epochs = 60;
  options.training.learning_rate = 1e-2;
  const FinetuneOutcome outcome = FinetuneRun(options).train(false, {});
  EXPECT_EQ(figure(outcome, "accuracy"), 1.0);
  const Json saved = read_json_file(folder_.path() / "pairs" / "last" / "adapter_config.json");
  EXPECT_EQ(saved.at("target_modules"), Json::array({"query", "value"}));
}

TEST_F(Classification, WhatItCannotDoIsRefusedByName) {
  FinetuneConfig wrong = config("wrong");
  wrong.model.load_in = "nf4";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is classification and model.load_in nf4"));
  wrong = config("wrong");
  wrong.adapter.bias = "all";
  EXPECT_THAT(error_of(wrong), HasSubstr("adapter.bias all"));
  wrong = config("wrong");
  wrong.adapter.modules_to_save = {"dense"};
  EXPECT_THAT(error_of(wrong), HasSubstr("adapter.modules_to_save holds \"dense\""));
  wrong = config("wrong");
  wrong.data.eval_share = 0.1;
  EXPECT_THAT(error_of(wrong), HasSubstr("data.eval_share is 0.1 and data.eval names files"));
  wrong = config("wrong");
  wrong.model.path = QUARRY_SOURCE_DIR "/tests/golden/encoders/bert_sequence";
  EXPECT_THAT(error_of(wrong),
              HasSubstr("is none of the model's, wanted no, maybe, yes or a number "
                        "below 3"));
  wrong = config("wrong");
  std::ofstream(folder_.path() / "other.jsonl") << R"({"prompt": "a", "completion": "b"})";
  wrong.data.train = {(folder_.path() / "other.jsonl").string()};
  EXPECT_THAT(error_of(wrong), HasSubstr("has no label, which recipe classification learns"));
  wrong = config("wrong");
  std::ofstream(folder_.path() / "one.jsonl") << R"({"text": "a", "label": "b"})";
  wrong.data.train = {(folder_.path() / "one.jsonl").string()};
  EXPECT_THAT(error_of(wrong), HasSubstr("the rows have 1 label, wanted two or more"));
  wrong = config("wrong");
  wrong.recipe = "sft";
  wrong.model.path = write_tiny_llama_gguf(folder_.path(), 3).string();
  EXPECT_THAT(error_of(wrong),
              HasSubstr("is a text with a label, which recipe sft does not learn"));
}

}  // namespace
}  // namespace quarry
