// The recipe `reranker`: its gradient, and runs as a user starts them.
#include "retriever/reranker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "finetune/recipes/reranker_trainer.h"
#include "generator/nn/lora_training.h"
#include "tests/finetune/recipes/expect_gradient.h"
#include "tests/finetune/recipes/places.h"

namespace quarry {
namespace {

using test::kPlaces;
using ::testing::HasSubstr;

TEST(RerankerTrainer, GradientsEqualFiniteDifferencesHoweverPassesAreCut) {
  const auto base = load_sequence_classifier(QUARRY_SOURCE_DIR "/tests/golden/encoders/bert_rerank",
                                             kernels::Precision::kExact);
  LoraSettings settings;
  settings.r = 4;
  settings.target_all_linear = true;
  settings.task_type = "SEQ_CLS";
  const LoraConfig config = LoraConfig::from_settings(settings);
  const auto adapter = create_adapter(config, base.model->linear_slots(), "false", 4);
  std::vector<InputGroup> batch;
  for (size_t i = 0; i < 3; ++i) {
    std::vector<TextInput> pairs;
    for (const char* passage : {"the moon", "who walked on the sea", "the sea is not full"}) {
      if (pairs.size() < 2 + i % 2) pairs.push_back({i == 1 ? "the sea" : "who", passage});
    }
    batch.push_back({concat("q", i), base.model->encode(pairs)});
  }
  test::NoOptimizer none;
  TrainerOptions options;
  options.max_grad_norm = 0.0;
  options.gradient.compute = GradientOptions::Compute::kFloat32;
  for (const int64_t tokens : {1000, 16}) {
    options.micro_batch_tokens = tokens;
    RerankerTrainer trainer(*base.model, config, *adapter, none, options);
    trainer.set_steps_taken(1);  // a first step must move something
    const auto loss = [&] { return trainer.evaluate(batch).mean_loss(); };
    EXPECT_NEAR(trainer.step(batch, 1e-3).loss, loss(), 1e-6);
    test::expect_gradient(
        trainer.parameters(), [&] { trainer.pack(); }, loss, 1);
  }
}

class RerankerRun : public test::PlacesTest {
 protected:
  FinetuneConfig config(const std::string& out) const {
    FinetuneConfig config = PlacesTest::config("reranker", out);
    config.model.path = bert_.string();
    config.contrastive.hard_negatives = 3;
    config.contrastive.candidates = kPlaces;
    config.training.learning_rate = 3e-3;
    return config;
  }
};

TEST_F(RerankerRun, TheLossFallsAndTheFolderReranks) {
  FinetuneConfig options = config("run");
  options.adapter.lora_dropout = 0;
  options.data.eval = options.data.train;
  options.training.batch_size = kPlaces;
  options.training.max_steps = 60;
  options.contrastive.hard_negatives = 5;
  std::vector<double> losses;
  double accuracy = 0.0;
  FinetuneEvents events;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    losses.push_back(result.loss);
  };
  std::string notes;
  events.note = [&](const std::string& line) { notes += line + "\n"; };
  const FinetuneOutcome outcome = FinetuneRun(options).train(false, events);
  EXPECT_LT(losses.back(), losses.front() - 0.3);
  EXPECT_THAT(notes, HasSubstr("one with a single logit is made"));
  for (const auto& [name, value] : outcome.eval_figures) accuracy += name == "accuracy" ? value : 0;
  EXPECT_GT(accuracy, 0.6);
  EXPECT_TRUE(outcome.last_query_adapter.empty());

  // Of the passage that answers each question, among all: by chance the mean of 1 / rank is 0.26.
  const auto tuned = Reranker::load(bert_.string(), outcome.best_adapter);
  std::vector<std::string> passages;
  for (int i = 0; i < kPlaces; ++i) {
    passages.push_back(concat("Place ", i, "\nPlace ", i, " is called name ", i * 7, " by all."));
  }
  double mrr = 0.0;
  for (int i = 0; i < kPlaces; ++i) {
    const std::vector<double> scores =
        tuned->score(concat("What is place ", i, " called?"), passages);
    mrr += 1.0 / static_cast<double>(rank_of_passage(scores, static_cast<size_t>(i))) / kPlaces;
  }
  EXPECT_GT(mrr, 0.4);
}

TEST_F(RerankerRun, AResumedRunIsBitEqual) {
  const std::string cut = train_whole_and_cut(config("whole"));
  EXPECT_EQ(weights(cut + "/last"), weights("whole/last"));
  EXPECT_NE(weights(cut + "/last"), "");
}

TEST_F(RerankerRun, ACrossEncoderGoesOnAndStartsFromAnAdapter) {
  FinetuneConfig options = config("first");
  options.model.path = QUARRY_SOURCE_DIR "/tests/golden/encoders/bert_rerank";
  options.training.max_steps = 2;
  const FinetuneOutcome first = FinetuneRun(options).train(false, {});
  options.output_dir = (folder_.path() / "next").string();
  options.adapter.start_from = first.last_adapter.string();
  EXPECT_EQ(FinetuneRun(options).train(false, {}).steps, 2);
  EXPECT_THAT(test::read_file(first.last_adapter / "README.md"), HasSubstr("text-ranking"));
}

TEST_F(RerankerRun, WhatDoesNotFitIsNamed) {
  FinetuneConfig wrong = config("wrong");
  wrong.passages.index = "";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is reranker and passages.index is empty"));
  wrong = config("wrong");
  wrong.model.path = "";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is reranker and model.path empty"));
  wrong = config("wrong");
  wrong.contrastive.hard_negatives = 0;
  EXPECT_THAT(error_of(wrong), HasSubstr("contrastive.hard_negatives is 0: there is no passage"));
  wrong = config("wrong");
  wrong.model.path = QUARRY_SOURCE_DIR "/tests/golden/encoders/bert_sequence";
  EXPECT_THAT(error_of(wrong), HasSubstr("a reranker is a sequence classifier with one"));
  wrong = config("wrong");
  wrong.adapter.bias = "all";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is reranker and adapter.bias all"));
}

}  // namespace
}  // namespace quarry
