#pragma once

#include <cctype>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "retriever/search.h"
#include "retriever/vector_sync.h"
#include "tests/data/store/store_fixture.h"

namespace quarry {

// A tokenizer that nobody asks anything.
class NoTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view, SpecialTokens) const override { return {}; }
  std::string decode(const std::vector<int32_t>&) const override { return ""; }
  std::string token_bytes(int32_t) const override { return ""; }
  int64_t vocab_size() const override { return 0; }
  int32_t token_id(std::string_view) const override { return -1; }
  bool is_special(int32_t) const override { return false; }
};

// Vectors of letter counts: texts that share letters are near one another.
class LetterEncoder : public TextEncoder {
 public:
  int64_t dim() const override { return kTestDim; }
  int64_t max_tokens() const override { return 256; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    std::vector<float> rows;
    for (const std::string& text : texts) {
      std::vector<float> row(kTestDim, 0.01F);
      for (const char c : text) {
        if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
          row[static_cast<size_t>(std::tolower(c)) % kTestDim] += 1.0F;
        }
      }
      float squares = 0.0F;
      for (const float value : row) squares += value * value;
      for (const float value : row) rows.push_back(value / std::sqrt(squares));
    }
    return rows;
  }

 private:
  NoTokenizer tokenizer_;
};

inline std::shared_ptr<const Embedder> letter_embedder(const std::string& hash = "0123") {
  LoadedEncoder encoder;
  encoder.name = "letters";
  encoder.content_hash = hash;
  encoder.model = std::make_unique<LetterEncoder>();
  return std::make_shared<Embedder>(std::move(encoder));
}

// An index folder with a store in it and no snapshot yet.
class IndexFixture : public ::testing::Test {
 protected:
  IndexFixture() { store_ = PassageStore::create(folder_ / kStoreFileName, test_manifest()); }

  // One document of one passage a line, with the letters' vectors.
  void put_lines(const std::string& uri, const std::string& text, const Metadata& metadata = {}) {
    Document document = make_document(uri, text);
    document.metadata = metadata;
    document.title = "";
    const std::vector<Passage> passages = line_passages(document);
    std::vector<std::string> texts;
    for (const Passage& passage : passages) texts.push_back(passage.text);
    const std::vector<float> vectors = LetterEncoder().encode(texts);
    store_->begin();
    store_->put_document(document, passages, vectors.data());
    store_->commit();
  }
  void remove(const std::string& uri) {
    store_->begin();
    ASSERT_TRUE(store_->remove_document(uri));
    store_->commit();
  }
  std::filesystem::path snapshot() const { return folder_ / kVectorFileName; }

  TemporaryFolder folder_;
  std::unique_ptr<PassageStore> store_;
};

}  // namespace quarry
