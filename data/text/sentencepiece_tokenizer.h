#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/text/added_tokens.h"
#include "data/text/tokenizer.h"

namespace quarry {

struct SentencePieceOptions {
  int32_t bos_id = -1;  // put before the text by SpecialTokens::kAdd; -1: none
  int32_t eos_id = -1;  // put behind
  // Found in the text beside the model's own control and user-defined pieces.
  std::vector<AddedToken> added_tokens;
};

// Runs a serialized sentencepiece ModelProto (a tokenizer.model file) through libsentencepiece.
// `source` names it in errors. Throws kCorruptData when the library refuses it.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& model_proto,
                                                        const SentencePieceOptions& options,
                                                        const std::string& source);

}  // namespace quarry
