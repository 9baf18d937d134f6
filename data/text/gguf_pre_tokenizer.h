#pragma once

#include <string>

#include "data/text/pre_tokenizer.h"
#include "data/text/tokenizer.h"

namespace quarry {

// What a value of tokenizer.ggml.pre stands for.
struct GgufPreTokenizer {
  ByteLevelPreTokenizerOptions options;
  bool ignore_merges = false;  // a word that is a token is not merged together
  bool nfc = false;            // normalize first
};
// Throws kInvalidArgument for a name that we do not know.
GgufPreTokenizer find_gguf_pre_tokenizer(const std::string& name);

// The sentencepiece ModelProto that GGUF's arrays of a "llama" tokenizer stand for. Throws
// kCorruptData when scores are missing.
std::string gguf_sentencepiece_model(const GgufTokenizerData& data);

}  // namespace quarry
