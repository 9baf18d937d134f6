#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "finetune/optimizer.h"
#include "finetune/recipes/ranking_measure.h"
#include "finetune/trained_adapter.h"
#include "finetune/trainer.h"
#include "retriever/embedder.h"

namespace quarry {

// A question with vectors of passages [dim], the right one first. Those are borrowed.
struct ContrastiveExample {
  std::string id;
  std::string question;
  int64_t num_tokens = 0;  // of the question
  std::vector<const float*> passages;
};

// Trains the query encoder's adapter by InfoNCE (van den Oord et al. 2018, arXiv:1807.03748): the
// cross entropy of the right passage in the softmax of inner products over a temperature. A step's
// gradient is that of the mean over its questions. One thread.
class ContrastiveTrainer {
 public:
  // All borrowed; `embedder` embeds with the adapter that is trained. Of the options those of
  // gradients, passes and dropout do not apply: questions are short.
  ContrastiveTrainer(const Embedder& embedder, TrainedAdapter& query_encoder, Optimizer& optimizer,
                     const TrainerOptions& options, double temperature);

  // One optimizer step; figures: those of RankingMeasure, before it. Throws kInvalidArgument for an
  // empty batch; kInternal as Trainer::step().
  StepResult step(const std::vector<ContrastiveExample>& batch, double learning_rate);
  // Throws kInvalidArgument for no question.
  RankingMeasure evaluate(const std::vector<ContrastiveExample>& examples) const;

  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps) { steps_taken_ = steps; }
  void pack() { query_encoder_.pack(); }
  std::vector<ParameterView> parameters() { return query_encoder_.parameters(); }

 private:
  struct Pass;
  Pass run(const std::vector<ContrastiveExample>& examples) const;

  const Embedder& embedder_;
  TrainedAdapter& query_encoder_;
  Optimizer& optimizer_;
  TrainerOptions options_;
  double temperature_;
  int64_t steps_taken_ = 0;
};

}  // namespace quarry
