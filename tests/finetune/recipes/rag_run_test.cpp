#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "generator/nn/lora.h"
#include "tests/finetune/recipes/places.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

using test::kPlaces;

class RagRunTest : public test::PlacesTest {};

TEST_F(RagRunTest, BothAdaptersAreLeftAndServe) {
  for (const std::string recipe : {"rag-sequence", "rag-token"}) {
    FinetuneConfig with_eval = config(recipe, recipe);
    with_eval.data.eval = with_eval.data.train;
    with_eval.training.eval_every = 3;
    const FinetuneOutcome outcome = FinetuneRun(with_eval).train(false, {});
    EXPECT_EQ(outcome.steps, 6);
    EXPECT_EQ(outcome.last_query_adapter, folder_.path() / recipe / "last-query-encoder");
    EXPECT_EQ(outcome.best_query_adapter, folder_.path() / recipe / "best-query-encoder");
    const LoadedGenerator loaded = load_generator(model_.string(), kernels::Precision::kFast);
    EXPECT_EQ(LoraAdapter::load(outcome.best_adapter, *loaded.model)->weights().size(), 14u);
    EmbedderOptions with_adapter;
    with_adapter.query_adapter = outcome.best_query_adapter;
    const auto tuned = Embedder::load(bert_.string(), with_adapter);
    EXPECT_NE(tuned->embed_query("What?"), Embedder::load(bert_.string())->embed_query("What?"));
    const std::string metrics = test::read_file(folder_.path() / recipe / "metrics.jsonl");
    for (const char* figure : {"posterior_entropy", "distinct_passages", "answer_recall",
                               "query_gradient_norm", "\"phase\":\"eval\""}) {
      EXPECT_THAT(metrics, HasSubstr(figure));
    }
  }
}

TEST_F(RagRunTest, AResumedRunIsBitEqual) {
  const std::string cut = train_whole_and_cut(config("rag-sequence", "whole")) + "/";
  for (const std::string adapter : {"last", "last-query-encoder"}) {
    EXPECT_EQ(weights(cut + adapter), weights("whole/" + adapter)) << adapter;
    EXPECT_NE(weights(cut + adapter), "");
  }
}

// Half of the answers stand in no passage.
TEST_F(RagRunTest, WhereNoPassageHoldsTheAnswerItLearnsToSayThat) {
  std::ofstream rows(folder_.path() / "rows.jsonl");
  for (int i = 0; i < 2 * kPlaces; ++i) {
    rows << R"({"id": "r)" << i << R"(", "question": "What is place )" << i / 2
         << R"( called?", "answer": ")" << (i % 2 == 0 ? "name " : "nowhere ") << i / 2 * 7
         << "\"}\n";
  }
  rows.close();
  const auto abstaining = [this](const std::string& out) {
    FinetuneConfig made = config("rag-sequence", out);
    made.rag.abstain = true;
    made.training.learning_rate = 0.03;
    return made;
  };
  const std::string cut = train_whole_and_cut(abstaining("whole")) + "/";
  EXPECT_EQ(weights(cut + "last"), weights("whole/last"));
  FinetuneConfig longer = abstaining("longer");
  longer.training.max_steps = 20;
  longer.training.save_every = 0;
  std::vector<double> losses;
  FinetuneEvents events;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    for (const auto& [name, value] : result.figures) {
      if (name == "refusal_loss") losses.push_back(value);
    }
  };
  FinetuneRun(longer).train(false, events);
  ASSERT_EQ(losses.size(), 20u);
  EXPECT_LT(losses.back(), 0.5 * losses.front());
}

// Resumed in the middle of a round of rag.refresh_every.
TEST_F(RagRunTest, APassageEncoderLearnsAndResumesBitEqual) {
  const auto with_passages = [this](const std::string& out) {
    FinetuneConfig made = config("rag-sequence", out);
    made.rag.train_passage_encoder = true;
    made.rag.over_retrieve = 5;
    made.rag.refresh_every = 2;
    made.query_encoder.learning_rate = 0.01;
    return made;
  };
  const std::string store = test::read_file(folder_.path() / "index" / kStoreFileName);
  FinetuneRun(with_passages("whole")).train(false, {});
  EXPECT_EQ(test::read_file(folder_.path() / "index" / kStoreFileName), store);
  CancelFlag cancel;
  FinetuneEvents events;
  events.cancel = &cancel;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    if (result.step == 5) cancel.cancel();
  };
  EXPECT_THAT(error_of(with_passages("cut"), events), HasSubstr("training: cancelled"));
  FinetuneRun(with_passages("cut")).train(true, {});
  EXPECT_EQ(weights("cut/last-query-encoder"), weights("whole/last-query-encoder"));
  EXPECT_THAT(test::read_file(folder_.path() / "whole/last-query-encoder/README.md"),
              HasSubstr("For questions and passages"));
  EXPECT_THAT(test::read_file(folder_.path() / "whole/metrics.jsonl"), HasSubstr("\"index_age\":"));
}

TEST_F(RagRunTest, OneSideLearnsAlone) {
  FinetuneConfig generator = config("rag-token", "generator");
  generator.rag.train = "generator";
  FinetuneOutcome outcome = FinetuneRun(generator).train(false, {});
  EXPECT_FALSE(outcome.last_adapter.empty());
  EXPECT_TRUE(outcome.last_query_adapter.empty());
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "generator/last-query-encoder"));
  FinetuneConfig encoder = config("replug-lsr", "encoder");
  encoder.rag.train = "query-encoder";
  outcome = FinetuneRun(encoder).train(false, {});
  EXPECT_TRUE(outcome.last_adapter.empty());
  EXPECT_FALSE(outcome.last_query_adapter.empty());
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "encoder/last"));
  // What one run left is where the next goes on.
  FinetuneConfig next = config("rag-sequence", "next");
  next.query_encoder.start_from = outcome.last_query_adapter.string();
  next.adapter.start_from = (folder_.path() / "generator/last").string();
  EXPECT_EQ(FinetuneRun(next).train(false, {}).steps, 6);
}

TEST_F(RagRunTest, DistillingTrainsTheQueryEncoderAloneAndResumes) {
  const std::string cut = train_whole_and_cut(config("distill", "whole")) + "/";
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "whole/last"));
  EXPECT_EQ(weights(cut + "last-query-encoder"), weights("whole/last-query-encoder"));
  EXPECT_NE(weights(cut + "last-query-encoder"), "");
}

TEST_F(RagRunTest, AnEncoderDecoderLearns) {
  for (const std::string recipe : {"rag-sequence", "rag-token"}) {
    FinetuneConfig pairs = config(recipe, recipe);
    pairs.model.path = QUARRY_SOURCE_DIR "/tests/golden/encoder_decoders/t5_gated";
    pairs.adapter.target_all_linear = false;
    pairs.adapter.target_modules = {"q", "v"};
    pairs.training.max_steps = 20;
    pairs.training.save_every = 0;
    pairs.training.learning_rate = 0.03;
    pairs.training.batch_size = kPlaces;
    std::vector<double> losses;
    FinetuneEvents events;
    events.on_step = [&](const StepResult& result, int64_t, double) {
      losses.push_back(result.loss);
    };
    const FinetuneOutcome outcome = FinetuneRun(pairs).train(false, events);
    ASSERT_EQ(losses.size(), 20u);
    EXPECT_LT(losses.back(), 0.8 * losses.front()) << recipe;
    EXPECT_THAT(test::read_file(outcome.last_adapter / "adapter_config.json"),
                HasSubstr("SEQ_2_SEQ_LM"));
    EXPECT_FALSE(outcome.last_query_adapter.empty());
  }
}

TEST_F(RagRunTest, EpochsEndTheRun) {
  FinetuneConfig by_epochs = config("rag-sequence", "epochs");
  by_epochs.training.max_steps = 0;
  by_epochs.training.epochs = 2;
  EXPECT_EQ(FinetuneRun(by_epochs).train(false, {}).steps, 5);  // 24 questions, 5 a step
}

TEST_F(RagRunTest, CollapsedRetrievalIsReported) {
  std::ofstream rows(folder_.path() / "rows.jsonl");
  for (int i = 0; i < kPlaces; ++i) {
    rows << R"({"id": "r)" << i << R"(", "question": "What?", "answer": "name )" << i << "\"}\n";
  }
  rows.close();
  FinetuneConfig same = config("rag-sequence", "same");
  same.passages.top_k = 1;
  std::string notes;
  FinetuneEvents events;
  events.note = [&](const std::string& line) { notes += line + "\n"; };
  FinetuneRun(same).train(false, events);
  EXPECT_THAT(notes, HasSubstr("warning: step 1: retrieval collapses: only 1 different passages "
                               "among the 5"));
}

// Where each question finds the same one passage.
TEST_F(RagRunTest, ACollapsedRunEndsAndGoesOnWhenTold) {
  std::ofstream rows(folder_.path() / "rows.jsonl");
  for (int i = 0; i < kPlaces; ++i) {
    rows << R"({"id": "r)" << i << R"(", "question": "What?", "answer": "name )" << i << "\"}\n";
  }
  rows.close();
  FinetuneConfig same = config("rag-sequence", "same");
  same.passages.top_k = 1;
  same.training.save_every = 4;
  same.rag.stop_on_collapse = true;
  const std::string error = error_of(same);
  EXPECT_THAT(error, HasSubstr("step 5: retrieval collapses: only 1 different passages"));
  EXPECT_THAT(error, HasSubstr("it has been so for 5 steps in a row"));
  EXPECT_THAT(error, HasSubstr("checkpoint-5 is there"));
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "same/checkpoint-5"));
  same.rag.stop_on_collapse = false;
  EXPECT_EQ(FinetuneRun(same).train(true, {}).steps, 6);
}

TEST_F(RagRunTest, WhatDoesNotFitIsNamed) {
  FinetuneConfig wrong = config("rag-sequence", "wrong");
  wrong.passages.index = "";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is rag-sequence and passages.index is empty"));
  wrong = config("replug-lsr", "wrong");
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is replug-lsr and rag.train both"));
  wrong = config("rag-sequence", "wrong");
  wrong.rag.train = "query-encoder";
  wrong.rag.abstain = true;
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is rag-sequence, rag.train query-encoder and "
                                         "rag.abstain true: no generator learns"));
  wrong = config("distill", "wrong");
  wrong.rag.train = "generator";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is distill and rag.train generator"));
  wrong = config("rag-token", "wrong");
  wrong.rag.train = "generator";
  wrong.rag.train_passage_encoder = true;
  EXPECT_THAT(error_of(wrong), HasSubstr("rag.train_passage_encoder is true and rag.train "
                                         "generator"));
  wrong = config("rag-token", "wrong");
  wrong.rag.refresh_every = 5;
  EXPECT_THAT(error_of(wrong), HasSubstr("rag.refresh_every is 5 and rag.train_passage_encoder"));
  wrong.rag.train_passage_encoder = true;
  wrong.rag.over_retrieve = 2;
  EXPECT_THAT(error_of(wrong), HasSubstr("rag.over_retrieve is 2, wanted at least passages.top_k"));
  std::ofstream(folder_.path() / "rows.jsonl") << R"({"prompt": "Hello", "completion": "World"})"
                                               << "\n";
  EXPECT_THAT(error_of(config("rag-token", "wrong")), HasSubstr("is no question with an answer"));
}

TEST_F(RagRunTest, DryRunTellsOfBothAdapters) {
  const std::string text = to_text(FinetuneRun(config("rag-sequence", "dry")).plan());
  // Of the generator's 2 layers 4 (2 (64 + 64) + 2 (64 + 32) + 3 (64 + 128)) each, of the encoder's
  // 4 (4 (64 + 64) + 2 (64 + 128)).
  EXPECT_THAT(text, HasSubstr("trainable params: 15,360 || "));
  EXPECT_THAT(text, HasSubstr("«"));
}

}  // namespace
}  // namespace quarry
