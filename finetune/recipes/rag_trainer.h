#pragma once

#include <cstdint>
#include <vector>

#include "finetune/loss/marginal_likelihood.h"
#include "finetune/optimizer.h"
#include "finetune/recipes/rag_stream.h"
#include "finetune/trained_adapter.h"
#include "finetune/trainer.h"
#include "generator/models/causal_lm.h"
#include "retriever/embedder.h"

namespace quarry {

using MarginalLossFunction = MarginalLoss (*)(const MarginalInputs& inputs);

struct RagTrainerOptions {
  TrainerOptions trainer;  // micro_batch_tokens bounds the memory, whatever the number of passages
  MarginalLossFunction loss = rag_sequence_loss;
  double temperature = 1.0;
  double teacher_temperature = 1.0;
  // Examples hold passages as the query encoder's adapter embeds them, and that learns from them as
  // well. REQUIRES: it learns.
  bool train_passages = false;
};

// What takes part in a step; all borrowed.
struct RagTrainerParts {
  const CausalLm* model = nullptr;
  const LoraAdapter* adapter = nullptr;     // of the generator, while it is frozen; may be null
  TrainedAdapter* generator = nullptr;      // null: the generator is frozen
  const Embedder* embedder = nullptr;       // embeds with the adapter of the next
  TrainedAdapter* query_encoder = nullptr;  // null: the query encoder is frozen
  Optimizer* optimizer = nullptr;
};

// Trains a generator and an encoder of queries, or of both sides, through the marginal likelihood
// of answers over retrieved passages. The gradient of sum_j loss_j / (number of target tokens, each
// counted once for all of its passages) is found in two passes: losses of all sequences without
// gradients, which give each passage's posterior, and then one ordinary backward pass whose targets
// weigh as much as that. Nothing of one sequence is kept for another, so the memory is that of
// micro_batch_tokens rows. With one passage a step is Trainer::step()'s. Dropout is in the second
// pass alone. One thread.
// Where examples have refusals, to the loss of a question comes sum_z -log p(refusal_z | x, z) / k,
// which no score is part of; a question whose passages do not hold the answer has that alone.
// Refusals' tokens do not count in the number of targets, and one that has 95 % already teaches no
// more.
class RagTrainer {
 public:
  RagTrainer(const RagTrainerParts& parts, const RagTrainerOptions& options);

  // One optimizer step. Throws as Trainer::step(). Gradients are clipped for each adapter by
  // itself. figures: prior_entropy and posterior_entropy (mean, nats), posterior_shift (mean total
  // variation between p(z|x) and p(z|x,y)), passage_effect (likewise between equal likelihoods of
  // the answer and those with each passage), answer_recall (share of questions with the answer
  // among their passages), distinct_passages (share of the passages of the step),
  // refusal_loss (mean of a question's, where examples have refusals), and query_gradient_norm
  // where that learns.
  StepResult step(const std::vector<RagExample>& batch, double learning_rate);
  // Mean loss of a target token, and figures, without learning, as the generator answers.
  double evaluate(const std::vector<RagExample>& examples,
                  std::vector<std::pair<std::string, double>>& figures) const;

  std::vector<ParameterView> parameters() const;
  void pack() const;
  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps) { steps_taken_ = steps; }

 private:
  struct Pass;  // what a step knows after its first pass

  Pass run_first_pass(const std::vector<RagExample>& batch, GradientOptions::Compute compute) const;
  void learn_generator(const std::vector<RagExample>& batch, const Pass& pass, double scale,
                       StepResult& result) const;
  void learn_encoder(const std::vector<RagExample>& batch, const Pass& pass, double scale) const;
  void learn_queries(const std::vector<RagExample>& batch, const Pass& pass, double scale) const;
  void learn_passages(const std::vector<RagExample>& batch, const Pass& pass, double scale) const;
  void zero_gradients() const;
  void update(StepResult& result);

  RagTrainerParts parts_;
  RagTrainerOptions options_;
  int64_t steps_taken_ = 0;
};

}  // namespace quarry
