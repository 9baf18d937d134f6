#pragma once

#include <memory>
#include <string>
#include <vector>

#include "generator/models/text_encoder.h"

namespace quarry {

// What a model's card asks to put before a text.
struct EmbedderPrefixes {
  std::string query;
  std::string passage;
};

// From config_sentence_transformers.json's "prompts" ("query"; "passage" or "document") in the
// model's folder; else "query: " and "passage: " for the E5 family (Wang et al. 2022,
// arXiv:2212.03533), known by "e5" standing alone in its name; else none.
EmbedderPrefixes embedder_prefixes(const std::string& name, const std::string& path);

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

  std::vector<float> embed_query(const std::string& query) const;                   // [dim]
  std::vector<float> embed_queries(const std::vector<std::string>& queries) const;  // [n, dim]
  std::vector<float> embed_passages(const std::vector<std::string>& texts) const;   // [n, dim]

 private:
  std::vector<float> embed(const std::string& prefix, const std::vector<std::string>& texts) const;

  LoadedEncoder encoder_;
  EmbedderPrefixes prefixes_;
};

}  // namespace quarry
