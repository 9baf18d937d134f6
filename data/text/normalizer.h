#pragma once

#include <memory>
#include <string>

#include "data/core/json.h"

namespace quarry {

// Rewrites a text before it is cut. Immutable; safe in many threads. Input and output are valid
// UTF-8.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string apply(std::string text) const = 0;
};

struct BertNormalizerOptions {
  bool clean_text = true;            // drop control characters, all white space becomes a space
  bool handle_chinese_chars = true;  // spaces around CJK ideographs
  bool strip_accents = true;
  bool lowercase = true;
};

std::unique_ptr<Normalizer> make_bert_normalizer(const BertNormalizerOptions& options);
std::unique_ptr<Normalizer> make_nfc_normalizer();

// From the "normalizer" of a tokenizer.json; null for JSON null. Throws kInvalidArgument naming a
// component that we do not have, kCorruptData for wrong fields.
std::unique_ptr<Normalizer> make_normalizer(const Json& config, const std::string& source);

}  // namespace quarry
