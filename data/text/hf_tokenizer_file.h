#pragma once

#include <string>

#include "data/text/tokenizer.h"

namespace quarry {

// A tokenizer as a Hugging Face folder keeps it.
struct TokenizerFile {
  std::string name;  // "tokenizer.json", "tokenizer.model"
  std::string bytes;
};

// The tokenizer of a GGUF file: tokenizer.json for byte-level BPE, tokenizer.model for
// sentencepiece. load_tokenizer gives the same ids from it as make_gguf_tokenizer does. Throws
// kInvalidArgument for another kind, kCorruptData.
TokenizerFile hf_tokenizer_file(const GgufTokenizerData& data);

}  // namespace quarry
