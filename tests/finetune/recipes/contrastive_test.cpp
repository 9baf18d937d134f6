// The recipe `contrastive`: its gradient, and runs as a user starts them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "finetune/data/text_match.h"
#include "finetune/recipes/contrastive_trainer.h"
#include "finetune/recipes/mined_stream.h"
#include "generator/nn/lora_training.h"
#include "tests/finetune/recipes/expect_gradient.h"
#include "tests/finetune/recipes/places.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

using test::kPlaces;
using ::testing::HasSubstr;

// Through scores, normalization, pooling and layers of the query encoder.
TEST(ContrastiveTrainer, GradientsEqualFiniteDifferences) {
  LoadedEncoder encoder =
      load_text_encoder(QUARRY_SOURCE_DIR "/tests/golden/models/bert", kernels::Precision::kExact);
  LoraSettings settings;
  settings.r = 4;
  settings.target_all_linear = true;
  settings.task_type = "FEATURE_EXTRACTION";
  const LoraConfig config = LoraConfig::from_settings(settings);
  const std::shared_ptr<LoraAdapter> adapter =
      create_adapter(config, encoder.model->linear_slots(), "false", 4);
  const Embedder embedder(std::move(encoder), adapter);
  TrainedAdapter trained(config, *adapter);
  const auto dim = static_cast<size_t>(embedder.dim());
  const std::vector<float> vectors =
      test::RandomValues(5).normal(static_cast<int64_t>(6 * dim), 0.0, 0.3);
  std::vector<ContrastiveExample> batch;
  for (size_t i = 0; i < 4; ++i) {
    ContrastiveExample example;
    example.id = concat("q", i);
    example.question = concat("Where is river ", i, " going?");
    for (size_t z = 0; z < 3 + i % 2; ++z) {
      example.passages.push_back(vectors.data() + ((i + z) % 6) * dim);
    }
    batch.push_back(std::move(example));
  }
  test::NoOptimizer none;
  TrainerOptions options;
  options.max_grad_norm = 0.0;
  ContrastiveTrainer trainer(embedder, trained, none, options, 0.5);
  trainer.set_steps_taken(1);  // a first step must move something
  const auto loss = [&] { return trainer.evaluate(batch).mean_loss(); };
  EXPECT_NEAR(trainer.step(batch, 1e-3).loss, loss(), 1e-9);
  for (const uint32_t signs : {1u, 2u}) {
    test::expect_gradient(
        trained.parameters(), [&] { trained.pack(); }, loss, signs);
  }
}

class Contrastive : public test::PlacesTest {
 protected:
  FinetuneConfig config(const std::string& out) const {
    FinetuneConfig config = PlacesTest::config("contrastive", out);
    config.model.path = "";
    config.query_encoder.learning_rate = 3e-3;
    config.contrastive.hard_negatives = 2;
    config.contrastive.candidates = kPlaces;
    return config;
  }
  // Of the passage that answers each question, the mean of 1 / its rank.
  double mrr(const std::filesystem::path& adapter) const {
    EmbedderOptions options;
    options.query_adapter = adapter;
    const auto embedder = Embedder::load(bert_.string(), options);
    const auto store = PassageStore::open(folder_.path() / "index" / kStoreFileName,
                                          PassageStore::Mode::kReadOnly);
    const auto dim = static_cast<size_t>(embedder->dim());
    double sum = 0.0;
    for (int64_t i = 0; i < kPlaces; ++i) {
      const std::vector<float> query =
          embedder->embed_query(concat("What is place ", i, " called?"));
      std::vector<double> scores;
      for (int64_t id = 1; id <= kPlaces; ++id) {
        const std::vector<float> passage = store->vectors({id});
        scores.push_back(
            std::inner_product(query.begin(), query.begin() + dim, passage.begin(), 0.0));
      }
      sum += 1.0 / static_cast<double>(rank_of_passage(scores, static_cast<size_t>(i)));
    }
    return sum / kPlaces;
  }
  // Rows with a context of their own, which no passage of the index holds.
  void write_rows_with_contexts() const {
    std::ofstream rows(folder_.path() / "rows.jsonl");
    for (int i = 0; i < kPlaces; ++i) {
      rows << R"({"id": "r)" << i << R"(", "question": "Who owns place )" << i
           << R"(?", "answer": "owner )" << static_cast<char>('a' + i)
           << R"(", "context": "It is owner )" << static_cast<char>('a' + i) << " who owns place "
           << i << R"(."})"
           << "\n";
    }
  }
};

TEST_F(Contrastive, TheLossFallsAndTheRightPassageRises) {
  FinetuneConfig options = config("run");
  options.data.eval = options.data.train;
  options.training.batch_size = kPlaces;
  options.training.max_steps = 40;
  std::vector<double> losses;
  FinetuneEvents events;
  events.on_step = [&](const StepResult& result, int64_t, double) {
    losses.push_back(result.loss);
  };
  const FinetuneOutcome outcome = FinetuneRun(options).train(false, events);
  EXPECT_TRUE(outcome.last_adapter.empty());
  EXPECT_EQ(outcome.last_query_adapter, folder_.path() / "run/last-query-encoder");
  EXPECT_LT(losses.back(), losses.front() - 0.5);
  EXPECT_GT(mrr(outcome.last_query_adapter), mrr("") + 0.2);
  const std::string metrics = test::read_file(folder_.path() / "run/metrics.jsonl");
  for (const char* figure : {"\"accuracy\"", "\"mrr\"", "\"phase\":\"eval\""}) {
    EXPECT_THAT(metrics, HasSubstr(figure));
  }
}

TEST_F(Contrastive, AResumedRunIsBitEqual) {
  const std::string cut = train_whole_and_cut(config("whole"));
  EXPECT_EQ(weights(cut + "/last-query-encoder"), weights("whole/last-query-encoder"));
  EXPECT_NE(weights(cut + "/last-query-encoder"), "");
}

TEST_F(Contrastive, RowsWithContextsOfTheirOwnAndAStartingAdapter) {
  write_rows_with_contexts();
  const FinetuneOutcome first = FinetuneRun(config("first")).train(false, {});
  EXPECT_EQ(first.data.sequences, 30);
  EXPECT_TRUE(first.data.skipped.empty());
  FinetuneConfig next = config("next");
  next.query_encoder.start_from = first.last_query_adapter.string();
  next.contrastive.hard_negatives = 0;
  next.training.compute = "f32";
  EXPECT_EQ(FinetuneRun(next).train(false, {}).steps, 6);
}

TEST_F(Contrastive, MinedPassagesHoldNoAnswer) {
  write_rows_with_contexts();
  std::ofstream(folder_.path() / "more.jsonl")
      << R"({"id": "m0", "question": "What is place 3 called?", "answer": "name 21"})"
      << "\n"
      << R"({"id": "m1", "question": "Nobody knows?", "answer": "unheard of"})"
      << "\n";
  const TrainingSet set =
      read_training_set({{folder_.path() / "rows.jsonl"}, {folder_.path() / "more.jsonl"}}, {});
  const std::shared_ptr<const Embedder> embedder = Embedder::load(bert_.string());
  const auto retriever = Retriever::open(folder_.path() / "index", embedder);
  const auto store =
      PassageStore::open(folder_.path() / "index" / kStoreFileName, PassageStore::Mode::kReadOnly);
  MinedStreamOptions options;
  options.hard_negatives = 3;
  options.candidates = kPlaces;
  MinedStream stream(set, *retriever, *store, *embedder, options);
  const std::vector<MinedQuestion> mined = stream.next(100);
  ASSERT_EQ(mined.size(), static_cast<size_t>(kPlaces + 1));
  EXPECT_EQ(stream.summary().skipped.at("no passage holds an answer"), 1);
  for (const MinedQuestion& question : mined) {
    ASSERT_EQ(question.passages.size(), 4u);
    EXPECT_EQ(question.vectors.size(), 4u * static_cast<size_t>(embedder->dim()));
    EXPECT_THAT(question.passages.front().text, HasSubstr(question.answers.front()));
    EXPECT_EQ(question.passages.front().id < 0, question.id != "m0");
    for (size_t z = 1; z < question.passages.size(); ++z) {
      EXPECT_GE(question.passages[z].id, 0);
      EXPECT_FALSE(holds_any(question.passages[z].key, question.answers)) << question.id;
    }
  }
}

TEST_F(Contrastive, DryRunShowsMinedPassages) {
  const std::string text = to_text(FinetuneRun(config("dry")).plan());
  EXPECT_THAT(text, HasSubstr("trainable params: 7,168 || "));
  EXPECT_THAT(text, HasSubstr("called?\n+ Place "));
  EXPECT_THAT(text, HasSubstr("\n- Place "));
  EXPECT_THAT(text, HasSubstr(" of the batch's other questions"));
}

TEST_F(Contrastive, WhatDoesNotFitIsNamed) {
  FinetuneConfig wrong = config("wrong");
  wrong.passages.index = "";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is contrastive and passages.index is empty"));
  wrong = config("wrong");
  wrong.model.path = "some-model";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is contrastive and model.path some-model"));
  wrong = config("wrong");
  wrong.passages.mode = "mixed";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is contrastive and passages.mode mixed"));
  wrong = config("wrong");
  wrong.contrastive.hard_negatives = 0;
  wrong.training.batch_size = 1;
  EXPECT_THAT(error_of(wrong), HasSubstr("there is no passage to tell the right one from"));
  wrong = config("wrong");
  wrong.contrastive.candidates = 1;
  EXPECT_THAT(error_of(wrong), HasSubstr("contrastive.candidates is 1, wanted at least "));
  wrong = config("wrong");
  wrong.adapter.start_from = "some-adapter";
  EXPECT_THAT(error_of(wrong), HasSubstr("recipe is contrastive and adapter.start_from some-ad"));
  wrong = config("wrong");
  wrong.rag.train_passage_encoder = true;
  EXPECT_THAT(error_of(wrong), HasSubstr("and rag.train_passage_encoder true"));
  std::ofstream(folder_.path() / "rows.jsonl")
      << R"({"question": "Nobody knows?", "answer": "unheard of"})"
      << "\n";
  EXPECT_THAT(error_of(config("wrong")),
              HasSubstr("for no question of the training data a passage holds an answer"));
  std::ofstream(folder_.path() / "rows.jsonl") << R"({"prompt": "Hello", "completion": "World"})"
                                               << "\n";
  EXPECT_THAT(error_of(config("wrong")), HasSubstr("is no question with an answer"));
}

}  // namespace
}  // namespace quarry
