#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "indexer/passage_embedder.h"
#include "retriever/embedder.h"

namespace quarry {

// The retriever's embedder as the indexer sees it. Borrows it.
class EmbedderAdapter : public PassageEmbedder {
 public:
  explicit EmbedderAdapter(const Embedder& embedder) : embedder_(embedder) {}
  std::string name() const override { return embedder_.name(); }
  std::string path() const override { return embedder_.path(); }
  std::string content_hash() const override { return embedder_.content_hash(); }
  int64_t dim() const override { return embedder_.dim(); }
  bool unit_length() const override { return embedder_.unit_length(); }
  int64_t max_tokens() const override { return embedder_.max_tokens(); }
  int64_t count_tokens(std::string_view text) const override {
    return embedder_.tokenizer().count_tokens(text);
  }
  std::vector<float> embed(const std::vector<std::string>& texts) const override {
    return embedder_.embed_passages(texts);
  }

 private:
  const Embedder& embedder_;
};

}  // namespace quarry
