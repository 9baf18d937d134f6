#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "generator/models/bert_stack.h"
#include "generator/models/text_batch.h"

namespace quarry {

// An encoder and the last layers of its task: what the classes of text_heads.h are made of.
struct EncoderHead {
  std::string description;  // of the configuration, for messages
  std::unique_ptr<BertStack> stack;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<std::string> labels;
  int64_t max_tokens = 0;
  std::unique_ptr<nn::Linear> dense;   // E -> E before a tanh; null: none
  std::unique_ptr<nn::Linear> output;  // E -> labels
  // What an adapter can change: Linears of the encoder, and the layers of the head whole.
  std::vector<CausalLm::LinearSlot> linear_slots;
  std::vector<CausalLm::TensorSlot> tensor_slots;
  std::vector<nn::Workspace> workspaces;

  // Throws kInvalidArgument when the tokenizer has none.
  const PairTemplate& pair_template() const;

  // Which tokens have logits.
  enum class Rows { kFirst, kAll };
  // on_logits(i, logits) for every input: [1 or inputs[i].ids.size(), labels] of it. Called on any
  // thread, for one input once. `adapter` may be null.
  void run(const std::vector<EncoderInput>& inputs, Rows rows, const LoraAdapter* adapter,
           const std::function<void(size_t input, const float* logits)>& on_logits);
  // One pass over all inputs, of their first tokens: loss(logits, gradients) gets the logits
  // [inputs.size(), labels] and sets the gradients [inputs.size(), labels] of the loss with respect
  // to them. Adds the gradients of what the adapter has to `gradients`.
  using BatchLoss = std::function<void(const float* logits, float* gradients)>;
  void learn(const std::vector<EncoderInput>& inputs, const LoraAdapter& adapter,
             const BatchLoss& loss, LoraGradients& gradients);

 private:
  // [texts or tokens of the batch, labels].
  nn::Tensor logits(const TextBatch& batch, Rows rows, const LoraAdapter* adapter,
                    LoraGradients* gradients, nn::Workspace& workspace) const;
};

}  // namespace quarry
