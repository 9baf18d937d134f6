#pragma once

#include <memory>
#include <string>
#include <vector>

#include "generator/models/text_encoder.h"

namespace quarry {

// Text -> unit vector, with the prefixes that the model's card asks for. One thread at a time.
class Embedder {
 public:
  explicit Embedder(LoadedEncoder encoder);
  static std::unique_ptr<Embedder> load(const std::string& model);

  const std::string& name() const { return encoder_.name; }
  const std::string& content_hash() const { return encoder_.content_hash; }
  int64_t dim() const { return encoder_.model->dim(); }
  int64_t max_tokens() const { return encoder_.model->max_tokens(); }
  const Tokenizer& tokenizer() const { return encoder_.model->tokenizer(); }

  std::vector<float> embed_query(const std::string& query) const;                  // [dim]
  std::vector<float> embed_passages(const std::vector<std::string>& texts) const;  // [n, dim]

 private:
  LoadedEncoder encoder_;
};

}  // namespace quarry
