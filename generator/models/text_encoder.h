#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "generator/kernels/matmul.h"

namespace quarry {

// A bidirectional encoder that turns a text into one unit vector (sentence-transformers folders:
// transformer + pooling + normalize). Immutable after loading; encode() by one thread at a time.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  virtual int64_t dim() const = 0;
  // Longest input in tokens, template tokens included; longer inputs are cut there.
  virtual int64_t max_tokens() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // [texts.size(), dim] row-major unit vectors. Batches by length inside; the vector of a text does
  // not depend on the others.
  virtual std::vector<float> encode(const std::vector<std::string>& texts) const = 0;
};

struct LoadedEncoder {
  std::string name;
  std::string path;
  std::string content_hash;
  std::unique_ptr<TextEncoder> model;
};

// `model` as in load_generator. Throws likewise.
LoadedEncoder load_text_encoder(const std::string& model, kernels::Precision precision);

}  // namespace quarry
