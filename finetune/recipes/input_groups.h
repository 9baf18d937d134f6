#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "finetune/trained_adapter.h"
#include "finetune/trainer.h"
#include "generator/models/text_heads.h"

namespace quarry {

// Texts of a sequence classifier whose logits count in one term of the loss: the one text of a
// label, the pairs of question and passages of a ranking.
struct InputGroup {
  std::string id;
  std::vector<EncoderInput> inputs;

  int64_t num_tokens() const;
};

// Gets the logits [inputs, labels] of a group and sets their gradients, of the same shape, which
// are null where nothing learns. Called for the groups of this rank alone.
using GroupLoss = std::function<void(size_t group, const float* logits, float* gradients)>;

// The gradient of the sum of all groups' losses, in `trained`: passes of at most
// options.micro_batch_tokens, in which a group is not cut, each of one rank. `result` gets
// sequences, tokens and rows; its step draws the dropout.
void learn_groups(const SequenceClassifier& model, const std::vector<InputGroup>& groups,
                  const GroupLoss& loss, const TrainerOptions& options, TrainedAdapter& trained,
                  StepResult& result);
// Calls `loss` for this rank's groups without learning.
void run_groups(const SequenceClassifier& model, const std::vector<InputGroup>& groups,
                const GroupLoss& loss, const TrainerOptions& options, const LoraAdapter& adapter);

}  // namespace quarry
