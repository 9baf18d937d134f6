#pragma once

#include <atomic>
#include <cmath>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "indexer/passage_embedder.h"

namespace quarry {

// Words are tokens; a vector depends on the text alone.
class FakeEmbedder : public PassageEmbedder {
 public:
  static constexpr int64_t kDim = 8;

  explicit FakeEmbedder(std::string hash = "fake-hash-0001") : hash_(std::move(hash)) {}
  std::string name() const override { return "fake"; }
  std::string path() const override { return ""; }
  std::string content_hash() const override { return hash_; }
  int64_t dim() const override { return kDim; }
  bool unit_length() const override { return true; }
  int64_t max_tokens() const override { return 256; }

  int64_t count_tokens(std::string_view text) const override {
    int64_t words = 0;
    bool inside = false;
    for (const char c : text) {
      const bool space = std::string_view(" \t\r\n\f\v").find(c) != std::string_view::npos;
      if (!space && !inside) ++words;
      inside = !space;
    }
    return words;
  }

  std::vector<float> embed(const std::vector<std::string>& texts) const override {
    if (before_embed) before_embed();
    embedded += static_cast<int64_t>(texts.size());
    std::vector<float> vectors;
    for (const std::string& text : texts) {
      uint64_t state = std::hash<std::string>()(text) | 1;
      float squares = 0.0F;
      float row[kDim];
      for (float& value : row) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        value = static_cast<float>(state >> 40) / 16777216.0F - 0.5F;
        squares += value * value;
      }
      for (const float value : row) vectors.push_back(value / std::sqrt(squares));
    }
    return vectors;
  }

  std::function<void()> before_embed;
  mutable std::atomic<int64_t> embedded{0};

 private:
  std::string hash_;
};

}  // namespace quarry
