#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// A text cut into pieces. Pieces view `buffers` (or the caller's text, which must outlive them).
struct PreTokenized {
  std::deque<std::string> buffers;  // a deque: growing does not move the strings
  std::vector<std::string_view> pieces;
  bool starts_text = true;  // the first piece begins the whole input, not what follows a token
};

// Cuts each piece further. Immutable; safe in many threads. Pieces are valid UTF-8, never empty.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void split(PreTokenized& text) const = 0;
};

// Patterns of well-known byte-level BPE families, in tokenizer.json's syntax.
extern const char kGpt2Pattern[];
extern const char kLlama3Pattern[];
extern const char kQwen2Pattern[];
extern const char kBloomPattern[];

std::unique_ptr<PreTokenizer> make_bert_pre_tokenizer();
// Each digit alone, when `single_digits`; then `pattern`; then bytes mapped to characters.
struct ByteLevelPreTokenizerOptions {
  std::string pattern;
  bool single_digits = false;
  bool add_prefix_space = false;
};
std::unique_ptr<PreTokenizer> make_byte_level_pre_tokenizer(
    const ByteLevelPreTokenizerOptions& options);

// From the "pre_tokenizer" of a tokenizer.json; null for JSON null. Throws kInvalidArgument naming
// a component that we do not have, kCorruptData for wrong fields.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& config, const std::string& source);

}  // namespace quarry
