#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "finetune/optimizer.h"
#include "finetune/recipes/input_groups.h"
#include "finetune/trained_adapter.h"
#include "finetune/trainer.h"
#include "generator/models/text_heads.h"

namespace quarry {

// A text as the model reads it, and what it should say.
struct LabelledInput {
  std::string id;
  EncoderInput input;
  int64_t label = 0;  // column of the logits

  int64_t num_tokens() const { return static_cast<int64_t>(input.ids.size()); }
};

// Trains the LoRA pairs and the head of a sequence classifier with the cross entropy of the labels.
// A step's gradient is that of the mean over the batch, however it is cut into passes. One thread.
class ClassifierTrainer {
 public:
  // All borrowed. `config` says under which names PEFT stores what the adapter has. Of the options
  // those of gradients and packing do not apply: activations are float32 and nothing is shared.
  ClassifierTrainer(const SequenceClassifier& model, const LoraConfig& config, LoraAdapter& adapter,
                    Optimizer& optimizer, const TrainerOptions& options);

  // One optimizer step; figures: "accuracy" of the batch before it. Throws kInvalidArgument for an
  // empty batch; kInternal as Trainer::step().
  StepResult step(const std::vector<LabelledInput>& batch, double learning_rate);

  struct Evaluation {
    double loss = 0;      // mean cross entropy in nats
    double accuracy = 0;  // share of inputs whose largest logit is that of their label
  };
  // Throws kInvalidArgument for an empty set.
  Evaluation evaluate(const std::vector<LabelledInput>& inputs) const;

  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps) { steps_taken_ = steps; }
  void pack() { trained_.pack(); }
  std::vector<ParameterView> parameters() { return trained_.parameters(); }

 private:
  GroupLoss loss_of(const std::vector<LabelledInput>& rows, std::vector<double>& sums) const;

  const SequenceClassifier& model_;
  TrainedAdapter trained_;
  Optimizer& optimizer_;
  TrainerOptions options_;
  int64_t steps_taken_ = 0;
};

// -log softmax(logits)[label]; `gradient` [count], where it is given, gets its gradient times
// `weight`.
double label_loss(const float* logits, int64_t count, int64_t label, double weight,
                  float* gradient);

}  // namespace quarry
