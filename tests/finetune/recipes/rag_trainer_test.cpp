#include "finetune/recipes/rag_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/core/error.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_training.h"
#include "tests/finetune/recipes/expect_gradient.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

std::string golden(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/" + name;
}

LoraConfig some_config(const std::string& task_type) {
  LoraSettings settings;
  settings.r = 4;
  settings.lora_alpha = 8;
  settings.target_all_linear = true;
  settings.task_type = task_type;
  return LoraConfig::from_settings(settings);
}

using test::NoOptimizer;

constexpr size_t kPassages = 3;

class RagTrainerTest : public testing::Test {
 protected:
  RagTrainerTest() : loaded_(load_generator(golden("models/llama"), kernels::Precision::kExact)) {
    // B away from 0, so that A has a gradient too.
    adapter_ = create_adapter(config_, loaded_.model->linear_slots(), "false", 3);
    LoadedEncoder encoder = load_text_encoder(golden("models/bert"), kernels::Precision::kExact);
    query_adapter_ = create_adapter(query_config_, encoder.model->linear_slots(), "false", 4);
    embedder_ = std::make_unique<Embedder>(std::move(encoder), query_adapter_);
    options_.trainer.gradient.compute = GradientOptions::Compute::kFloat32;
    options_.trainer.max_grad_norm = 0.0;
    options_.temperature = 0.5;
    generator_ = std::make_unique<TrainedAdapter>(config_, *adapter_);
    query_encoder_ = std::make_unique<TrainedAdapter>(query_config_, *query_adapter_, "query.");
  }

  // Questions whose k sequences end in one answer.
  std::vector<RagExample> some_examples(size_t count, size_t k) const {
    std::vector<RagExample> examples;
    uint32_t state = 5;
    const auto token = [&state] {
      state = state * 1664525u + 1013904223u;
      return static_cast<int32_t>((state >> 8) % 288);
    };
    const auto dim = static_cast<size_t>(embedder_->dim());
    for (size_t i = 0; i < count; ++i) {
      RagExample example;
      example.question = concat("Where is river ", i, " going?");
      std::vector<int32_t> answer;
      for (size_t t = 0; t < 2 + i % 3; ++t) answer.push_back(token());
      example.passage_vectors =
          test::RandomValues(10 + i).normal(static_cast<int64_t>(k * dim), 0.0, 0.3);
      for (size_t z = 0; z < k; ++z) {
        TrainingSequence sequence;
        sequence.id = concat("q", i, "#", z);
        for (size_t t = 0; t < 9 + z; ++t) sequence.tokens.push_back(token());
        sequence.is_target.assign(sequence.tokens.size(), 0);
        sequence.tokens.insert(sequence.tokens.end(), answer.begin(), answer.end());
        sequence.is_target.resize(sequence.tokens.size(), 1);
        example.sequences.push_back(std::move(sequence));
        example.passage_ids.push_back(static_cast<int64_t>(10 * i + z));
      }
      examples.push_back(std::move(example));
    }
    refresh_scores(examples);
    return examples;
  }

  // The same for a model whose encoder reads what comes before the answer.
  static void give_to_encoder(const CausalLmConfig& config, std::vector<RagExample>& examples) {
    const auto known = [&config](int32_t token) {
      return static_cast<int32_t>(3 + token % (config.vocab_size - 3));
    };
    for (RagExample& example : examples) {
      for (TrainingSequence& sequence : example.sequences) {
        for (int32_t& token : sequence.tokens) token = known(token);
        const auto answer = std::find(sequence.is_target.begin(), sequence.is_target.end(), 1) -
                            sequence.is_target.begin();
        sequence.source.assign(sequence.tokens.begin(), sequence.tokens.begin() + answer);
        sequence.tokens.erase(sequence.tokens.begin(), sequence.tokens.begin() + answer);
        sequence.tokens.insert(sequence.tokens.begin(), config.decoder_prompt.front());
        sequence.is_target.assign(sequence.tokens.size(), 1);
        sequence.is_target[0] = 0;
      }
    }
  }

  // Gives questions and passages texts of the model's vocabulary, one passage to two questions.
  void set_texts(std::vector<RagExample>& examples) const {
    const std::vector<std::string> words = {"rivers", "moon", "dog",    "quick", "open",
                                            "keeps",  "the",  "people", "1969",  "walked"};
    const auto word = [&](size_t number) { return words[number % words.size()]; };
    for (size_t i = 0; i < examples.size(); ++i) {
      examples[i].question = concat(word(i), " ", word(3 * i + 1), " you");
      for (size_t z = 0; z < examples[i].sequences.size(); ++z) {
        examples[i].passage_texts.push_back(
            concat(word(i + 4 * z), " ", word(7 * i + z + 2), " in time. ", word(5 * z + i)));
      }
    }
    examples[1].passage_ids[2] = examples[0].passage_ids[1];
    examples[1].passage_texts[2] = examples[0].passage_texts[1];
    refresh_scores(examples);
  }

  // With the encoder as it is; passages that have texts are embedded too.
  void refresh_scores(std::vector<RagExample>& examples) const {
    const auto dim = static_cast<size_t>(embedder_->dim());
    for (RagExample& example : examples) {
      example.query_vector = embedder_->embed_query(example.question);
      const std::vector<float>& query = example.query_vector;
      if (!example.passage_texts.empty()) {
        example.passage_vectors =
            embedder_->embed_passages_with(*query_adapter_, example.passage_texts);
      }
      example.scores.clear();
      for (size_t z = 0; z < example.sequences.size(); ++z) {
        const float* passage = example.passage_vectors.data() + z * dim;
        example.scores.push_back(std::inner_product(query.begin(), query.end(), passage, 0.0));
      }
    }
  }

  RagTrainerParts parts(TrainedAdapter* generator, TrainedAdapter* query_encoder,
                        Optimizer& optimizer) const {
    RagTrainerParts parts;
    parts.model = loaded_.model.get();
    parts.adapter = adapter_.get();
    parts.generator = generator;
    parts.embedder = embedder_.get();
    parts.query_encoder = query_encoder;
    parts.optimizer = &optimizer;
    return parts;
  }

  void expect_gradient(RagTrainer& trainer, TrainedAdapter& trained, uint32_t signs,
                       std::vector<RagExample> examples) const {
    const auto loss = [&] {
      refresh_scores(examples);
      std::vector<std::pair<std::string, double>> figures;
      return trainer.evaluate(examples, figures);
    };
    test::expect_gradient(
        trained.parameters(), [&] { trained.pack(); }, loss, signs, distance_);
  }

  LoadedGenerator loaded_;
  LoraConfig config_ = some_config("CAUSAL_LM");
  LoraConfig query_config_ = some_config("FEATURE_EXTRACTION");
  std::unique_ptr<LoraAdapter> adapter_;
  std::shared_ptr<LoraAdapter> query_adapter_;
  std::unique_ptr<Embedder> embedder_;
  std::unique_ptr<TrainedAdapter> generator_;
  std::unique_ptr<TrainedAdapter> query_encoder_;
  RagTrainerOptions options_;
  double distance_ = 0.005;  // of a finite difference
};

// The whole way: passages' losses, posterior, the weighted backward pass through the generator, and
// through scores, normalization, pooling and layers of the query encoder.
TEST_F(RagTrainerTest, GradientsEqualFiniteDifferencesOfTheMarginalLoss) {
  NoOptimizer none;
  for (const MarginalLossFunction loss : {rag_sequence_loss, rag_token_loss}) {
    options_.loss = loss;
    RagTrainer trainer(parts(generator_.get(), query_encoder_.get(), none), options_);
    trainer.set_steps_taken(1);  // a first step must move something
    const std::vector<RagExample> examples = some_examples(4, kPassages);
    const StepResult result = trainer.step(examples, 1e-3);
    std::vector<std::pair<std::string, double>> figures;
    EXPECT_NEAR(result.loss, trainer.evaluate(examples, figures), 1e-6);
    for (const uint32_t signs : {1u, 2u}) {
      expect_gradient(trainer, *generator_, signs, examples);
      expect_gradient(trainer, *query_encoder_, signs, examples);
    }
  }
}

// The passages but the last do not hold the first question's answer, none the second's.
TEST_F(RagTrainerTest, GradientsOfRefusalsEqualFiniteDifferences) {
  NoOptimizer none;
  distance_ = 0.002;  // longer targets: the loss bends more
  RagTrainer trainer(parts(generator_.get(), query_encoder_.get(), none), options_);
  trainer.set_steps_taken(1);
  std::vector<RagExample> examples = some_examples(2, kPassages);
  const auto losses = [&](size_t i) {
    std::vector<std::pair<std::string, double>> figures;
    const double loss = trainer.evaluate({examples[i]}, figures);
    const auto targets = examples[i].sequences[0].is_target;
    return loss * static_cast<double>(std::count(targets.begin(), targets.end(), 1));
  };
  const double answer = losses(0);
  double refusals[2] = {0.0, 0.0};
  for (size_t i = 0; i < 2; ++i) {
    examples[i].holds_answer = i == 0;
    for (size_t z = 0; z < kPassages; ++z) {
      TrainingSequence refusal = examples[i].sequences[z];
      for (size_t t = 0; t < refusal.tokens.size(); ++t) {
        if (refusal.is_target[t] != 0) refusal.tokens[t] = static_cast<int32_t>(7 + t);
      }
      RagExample alone = examples[i];
      alone.sequences.assign(kPassages, refusal);  // the marginal of k alike is that of one
      alone.refusals.clear();
      std::swap(alone, examples[i]);
      if (i == 1 || z + 1 < kPassages) refusals[i] += losses(i) / kPassages;
      std::swap(alone, examples[i]);
      examples[i].refusals.emplace_back(std::move(refusal));
    }
  }
  examples[0].refusals.back().reset();
  EXPECT_NEAR(losses(0), answer + refusals[0], 1e-4);
  EXPECT_NEAR(losses(1), refusals[1], 1e-4);
  const StepResult result = trainer.step(examples, 1e-3);
  std::vector<std::pair<std::string, double>> figures;
  EXPECT_NEAR(result.loss, trainer.evaluate(examples, figures), 1e-6);
  EXPECT_EQ(figures.back().first, "refusal_loss");
  EXPECT_NEAR(figures.back().second, (refusals[0] + refusals[1]) / 2, 1e-4);
  for (const uint32_t signs : {1u, 2u}) {
    expect_gradient(trainer, *generator_, signs, examples);
    expect_gradient(trainer, *query_encoder_, signs, examples);
  }
}

// The same with passages that the encoder embeds as well.
TEST_F(RagTrainerTest, GradientsThroughBothSidesEqualFiniteDifferences) {
  NoOptimizer none;
  options_.train_passages = true;
  for (const MarginalLossFunction loss : {rag_sequence_loss, rag_token_loss, replug_lsr_loss}) {
    options_.loss = loss;
    RagTrainer trainer(parts(nullptr, query_encoder_.get(), none), options_);
    trainer.set_steps_taken(1);
    std::vector<RagExample> examples = some_examples(4, kPassages);
    set_texts(examples);
    trainer.step(examples, 1e-3);
    for (const uint32_t signs : {1u, 2u}) {
      expect_gradient(trainer, *query_encoder_, signs, examples);
    }
  }
}

TEST_F(RagTrainerTest, GradientsThroughEncoderDecodersEqualFiniteDifferences) {
  NoOptimizer none;
  const LoraConfig config = some_config("SEQ_2_SEQ_LM");
  distance_ = 0.001;  // T5 does not scale its attention's logits: the loss bends more
  for (const std::string name : {"t5_gated", "bart"}) {
    SCOPED_TRACE(name);
    const LoadedGenerator loaded =
        load_generator(golden("encoder_decoders/" + name), kernels::Precision::kExact);
    const auto adapter = create_adapter(config, loaded.model->linear_slots(), "false", 3);
    TrainedAdapter generator(config, *adapter);
    std::vector<RagExample> examples = some_examples(4, kPassages);
    give_to_encoder(loaded.model->config(), examples);
    for (const MarginalLossFunction loss : {rag_sequence_loss, rag_token_loss}) {
      options_.loss = loss;
      RagTrainerParts of_pair = parts(&generator, query_encoder_.get(), none);
      of_pair.model = loaded.model.get();
      RagTrainer trainer(of_pair, options_);
      trainer.set_steps_taken(1);
      refresh_scores(examples);
      trainer.step(examples, 1e-3);
      expect_gradient(trainer, generator, 1, examples);
      expect_gradient(trainer, *query_encoder_, 2, examples);
    }
  }
}

TEST_F(RagTrainerTest, GradientsOfAFrozenGeneratorsLossesEqualFiniteDifferences) {
  NoOptimizer none;
  options_.teacher_temperature = 0.2;
  for (const MarginalLossFunction loss : {replug_lsr_loss, pdist_loss}) {
    options_.loss = loss;
    RagTrainer trainer(parts(nullptr, query_encoder_.get(), none), options_);
    trainer.set_steps_taken(1);
    const std::vector<RagExample> examples = some_examples(4, kPassages);
    trainer.step(examples, 1e-3);
    expect_gradient(trainer, *query_encoder_, 1, examples);
  }
}

TEST_F(RagTrainerTest, ByPdistTheRetrieverComesToAgreeWithTheGenerator) {
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  options_.loss = pdist_loss;
  options_.teacher_temperature = 0.1;
  RagTrainer trainer(parts(nullptr, query_encoder_.get(), *optimizer), options_);
  std::vector<RagExample> examples = some_examples(4, kPassages);
  const StepResult first = trainer.step(examples, 5e-3);
  StepResult last;
  for (int step = 0; step < 15; ++step) {
    refresh_scores(examples);
    last = trainer.step(examples, 5e-3);
  }
  EXPECT_LT(last.loss, 0.8 * first.loss);
}

TEST_F(RagTrainerTest, WithOnePassageAStepIsTheSupervisedOne) {
  const std::vector<RagExample> examples = some_examples(5, 1);
  std::vector<TrainingSequence> sequences;
  for (const RagExample& example : examples) sequences.push_back(example.sequences.front());
  const auto other = create_adapter(config_, loaded_.model->linear_slots(), "false", 3);
  const auto plain_optimizer = make_optimizer(OptimizerKind::kAdamW);
  Trainer plain(*loaded_.model, config_, *other, *plain_optimizer, options_.trainer);
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  RagTrainer trainer(parts(generator_.get(), nullptr, *optimizer), options_);
  for (int step = 0; step < 3; ++step) {
    const StepResult found = trainer.step(examples, 1e-2);
    const StepResult wanted = plain.step(sequences, 1e-2);
    EXPECT_NEAR(found.loss, wanted.loss, 1e-6);
    EXPECT_EQ(found.gradient_norm, wanted.gradient_norm);
    EXPECT_EQ(found.targets, wanted.targets);
  }
  for (const auto& [path, weights] : adapter_->weights()) {
    EXPECT_EQ(weights.a, other->find(path)->a);
    EXPECT_EQ(weights.b, other->find(path)->b);
  }
}

TEST_F(RagTrainerTest, GradientsDoNotDependOnHowManyPassagesAPassHolds) {
  NoOptimizer none;
  const std::vector<RagExample> examples = some_examples(3, kPassages);
  std::vector<float> together;
  for (const int64_t rows : {1000, 16}) {
    options_.trainer.micro_batch_tokens = rows;
    RagTrainer trainer(parts(generator_.get(), nullptr, none), options_);
    trainer.set_steps_taken(1);
    trainer.step(examples, 1e-3);
    size_t at = 0;
    for (const ParameterView& view : generator_->parameters()) {
      for (int64_t i = 0; i < view.size; ++i) {
        if (rows == 1000) {
          together.push_back(view.gradient[i]);
        } else {
          ASSERT_NEAR(view.gradient[i], together[at++], 1e-5) << view.name;
        }
      }
    }
  }
}

TEST_F(RagTrainerTest, EachSideLearnsAloneAndTheOtherStaysAsItIs) {
  std::vector<RagExample> examples = some_examples(4, kPassages);
  const auto values = [](TrainedAdapter& trained) { return hash_of_values(trained.parameters()); };
  for (const bool generator_learns : {true, false}) {
    const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
    TrainedAdapter& learns = generator_learns ? *generator_ : *query_encoder_;
    TrainedAdapter& frozen = generator_learns ? *query_encoder_ : *generator_;
    const uint64_t before = values(frozen);
    RagTrainer trainer(parts(generator_learns ? generator_.get() : nullptr,
                             generator_learns ? nullptr : query_encoder_.get(), *optimizer),
                       options_);
    refresh_scores(examples);
    const double first = trainer.step(examples, 5e-3).loss;
    double last = first;
    for (int step = 0; step < 15; ++step) {
      refresh_scores(examples);
      last = trainer.step(examples, 5e-3).loss;
    }
    EXPECT_LT(last, first - 0.02) << (generator_learns ? "generator" : "query encoder");
    EXPECT_EQ(values(frozen), before);
    EXPECT_EQ(trainer.parameters().size(), learns.parameters().size());
  }
}

TEST_F(RagTrainerTest, FiguresTellWhatWasFound) {
  NoOptimizer none;
  RagTrainer trainer(parts(generator_.get(), query_encoder_.get(), none), options_);
  std::vector<RagExample> examples = some_examples(2, 2);
  examples[1].passage_ids = examples[0].passage_ids;
  examples[1].holds_answer = true;
  std::vector<std::pair<std::string, double>> figures;
  trainer.evaluate(examples, figures);
  const std::map<std::string, double> named(figures.begin(), figures.end());
  EXPECT_EQ(named.at("distinct_passages"), 0.5);
  EXPECT_EQ(named.at("answer_recall"), 0.5);
  EXPECT_GT(named.at("prior_entropy"), 0.0);
  EXPECT_LE(named.at("prior_entropy"), std::log(2.0) + 1e-12);
  EXPECT_GT(named.at("posterior_shift"), 0.0);
}

TEST_F(RagTrainerTest, ALossThatIsNotFiniteLeavesTheAdaptersAlone) {
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  RagTrainer trainer(parts(generator_.get(), query_encoder_.get(), *optimizer), options_);
  std::vector<RagExample> examples = some_examples(2, 2);
  examples[0].scores[0] = std::nan("");
  const uint64_t before = hash_of_values(trainer.parameters());
  try {
    trainer.step(examples, 1e-3);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("the adapters are as step 0 left them"));
  }
  EXPECT_EQ(hash_of_values(trainer.parameters()), before);
  EXPECT_EQ(trainer.steps_taken(), 0);
}

}  // namespace
}  // namespace quarry
