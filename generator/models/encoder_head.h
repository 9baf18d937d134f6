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
  std::vector<nn::Workspace> workspaces;

  // Throws kInvalidArgument when the tokenizer has none.
  const PairTemplate& pair_template() const;

  // Which tokens have logits.
  enum class Rows { kFirst, kAll };
  // on_logits(i, logits) for every input: [1 or inputs[i].ids.size(), labels] of it. Called on any
  // thread, for one input once.
  void run(const std::vector<EncoderInput>& inputs, Rows rows,
           const std::function<void(size_t input, const float* logits)>& on_logits);
};

}  // namespace quarry
