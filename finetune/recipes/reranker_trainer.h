#pragma once

#include <cstdint>
#include <vector>

#include "finetune/optimizer.h"
#include "finetune/recipes/input_groups.h"
#include "finetune/recipes/ranking_measure.h"
#include "finetune/trained_adapter.h"
#include "finetune/trainer.h"

namespace quarry {

// Trains the LoRA pairs and the head of a cross-encoder with one logit by the listwise softmax
// cross entropy of a question's right passage, the first of its group, among the others (ListNet:
// Cao et al. 2007; as Gao et al. 2021, arXiv:2101.08751, train rerankers). A step's gradient is
// that of the mean over its questions, however it is cut into passes. One thread.
class RerankerTrainer {
 public:
  // All borrowed. `config` says under which names PEFT stores what the adapter has. Of the options
  // those of gradients and packing do not apply: activations are float32 and nothing is shared.
  RerankerTrainer(const SequenceClassifier& model, const LoraConfig& config, LoraAdapter& adapter,
                  Optimizer& optimizer, const TrainerOptions& options);

  // One optimizer step; figures: those of RankingMeasure, before it. Throws kInvalidArgument for an
  // empty batch; kInternal as Trainer::step().
  StepResult step(const std::vector<InputGroup>& batch, double learning_rate);
  // Throws kInvalidArgument for no question.
  RankingMeasure evaluate(const std::vector<InputGroup>& questions) const;

  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps) { steps_taken_ = steps; }
  void pack() { trained_.pack(); }
  std::vector<ParameterView> parameters() { return trained_.parameters(); }

 private:
  const SequenceClassifier& model_;
  TrainedAdapter trained_;
  Optimizer& optimizer_;
  TrainerOptions options_;
  int64_t steps_taken_ = 0;
};

}  // namespace quarry
