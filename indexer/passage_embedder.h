#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quarry {

// What the indexer needs of an embedder. embed() is called from one thread; count_tokens() from
// another one at the same time.
class PassageEmbedder {
 public:
  virtual ~PassageEmbedder() = default;
  virtual std::string name() const = 0;
  virtual std::string path() const = 0;  // absolute, of the model's folder; empty: it has none
  virtual std::string content_hash() const = 0;
  virtual int64_t dim() const = 0;
  virtual bool unit_length() const = 0;    // whether every vector has length 1
  virtual int64_t max_tokens() const = 0;  // special tokens included
  virtual int64_t count_tokens(std::string_view text) const = 0;
  // [texts, dim] row-major.
  virtual std::vector<float> embed(const std::vector<std::string>& texts) const = 0;
};

}  // namespace quarry
