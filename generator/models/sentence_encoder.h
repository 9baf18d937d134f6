#pragma once

#include <memory>

#include "generator/models/bert_stack.h"
#include "generator/models/families.h"

namespace quarry {

struct SentenceEncoderParts {
  std::unique_ptr<BertStack> stack;
  std::unique_ptr<Tokenizer> tokenizer;
  Pooling pooling = Pooling::kMean;
  int64_t max_tokens = 0;  // 0: as many as the model has positions
  bool unit_length = true;
  // Of the pooled vector, E -> dim; null: the vector itself. REQUIRES: kCls, not unit_length.
  std::unique_ptr<nn::Linear> projection;
};

// A sentence encoder (Reimers & Gurevych 2019, arXiv:1908.10084): token vectors pooled and scaled
// to length 1. `description` names the configuration. Throws kCorruptData when the tokenizer knows
// more tokens than the model.
std::unique_ptr<TextEncoder> make_sentence_encoder(SentenceEncoderParts parts,
                                                   const std::string& description);

// The same check, for any model over a stack.
void check_vocabulary(const Tokenizer& tokenizer, const BertConfig& config,
                      const std::string& description);

}  // namespace quarry
