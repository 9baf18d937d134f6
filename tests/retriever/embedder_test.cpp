#include "retriever/embedder.h"

#include <gtest/gtest.h>

#include "tests/retriever/index_fixture.h"

namespace quarry {
namespace {

// Gives back the texts it was handed.
class SpyEncoder : public LetterEncoder {
 public:
  explicit SpyEncoder(std::vector<std::string>* seen) : seen_(seen) {}
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    seen_->insert(seen_->end(), texts.begin(), texts.end());
    return LetterEncoder::encode(texts);
  }

 private:
  std::vector<std::string>* seen_;
};

std::vector<std::string> texts_seen(const std::string& name) {
  std::vector<std::string> seen;
  LoadedEncoder encoder;
  encoder.name = name;
  encoder.model = std::make_unique<SpyEncoder>(&seen);
  const Embedder embedder(std::move(encoder));
  embedder.embed_query("q");
  embedder.embed_queries({"r"});
  EXPECT_EQ(embedder.embed_passages({"p", "o"}).size(), 2U * kTestDim);
  return seen;
}

TEST(Embedder, E5ModelsGetTheirPrefixes) {
  const std::vector<std::string> wanted = {"query: q", "query: r", "passage: p", "passage: o"};
  EXPECT_EQ(texts_seen("multilingual-e5-small"), wanted);
  EXPECT_EQ(texts_seen("E5-small-v2"), wanted);
}

TEST(Embedder, OthersGetNone) {
  const std::vector<std::string> wanted = {"q", "r", "p", "o"};
  EXPECT_EQ(texts_seen("all-minilm-l6-v2"), wanted);
  EXPECT_EQ(texts_seen("made5"), wanted);
  EXPECT_EQ(texts_seen("e512"), wanted);
}

TEST(Embedder, PromptsOfTheModelFolderComeFirst) {
  const TemporaryFolder folder;
  write_bytes(folder / "config_sentence_transformers.json",
              R"({"prompts": {"query": "find: ", "document": "text: "}})");
  const EmbedderPrefixes prefixes = embedder_prefixes("some-e5", folder.path().string());
  EXPECT_EQ(prefixes.query, "find: ");
  EXPECT_EQ(prefixes.passage, "text: ");
  write_bytes(folder / "config_sentence_transformers.json", R"({"prompts": {"sts": "x"}})");
  EXPECT_EQ(embedder_prefixes("plain", folder.path().string()).query, "");
}

}  // namespace
}  // namespace quarry
