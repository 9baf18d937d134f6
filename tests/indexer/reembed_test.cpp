#include "indexer/reembed.h"

#include <gmock/gmock.h>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "tests/data/store/store_fixture.h"
#include "tests/indexer/fake_embedder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

// Other vectors than FakeEmbedder's.
class OtherEmbedder final : public FakeEmbedder {
 public:
  OtherEmbedder() : FakeEmbedder("fake-hash-0002") {}
  int64_t max_tokens() const override { return most; }
  std::vector<float> embed(const std::vector<std::string>& texts) const override {
    std::vector<float> vectors = FakeEmbedder::embed(texts);
    for (float& value : vectors) value = -value;
    return vectors;
  }
  int64_t most = 256;
};

class ReembedTest : public ::testing::Test {
 protected:
  ReembedTest() {
    fs::create_directories(folder_ / "corpus");
    for (int i = 0; i < 5; ++i) {
      write_bytes(folder_ / "corpus" / concat(i, ".md"),
                  concat("# Bees ", i, "\nBees make honey.\n\n## Hives\nHives are boxes.\n"));
    }
    IndexOptions build;
    build.index = folder_ / "old";
    build.paths = {folder_ / "corpus"};
    build_store(build, FakeEmbedder(), progress_, cancel_);
    fs::create_directories(folder_ / "new");
    options_.from = folder_ / "old";
    options_.to = folder_ / "new";
    options_.embed_batch = 3;
  }

  std::unique_ptr<PassageStore> open(const char* name) const {
    return PassageStore::open(store_path(folder_ / name), PassageStore::Mode::kReadOnly);
  }

  TemporaryFolder folder_;
  SilentProgress progress_;
  CancelFlag cancel_;
  ReembedOptions options_;
};

TEST_F(ReembedTest, HoldsTheSameDocumentsWithOtherVectors) {
  fs::remove_all(folder_ / "corpus");
  const OtherEmbedder embedder;
  const IndexReport report = reembed_store(options_, embedder, progress_, cancel_);
  const auto before = open("old");
  const auto after = open("new");
  EXPECT_EQ(report.documents_added, 5);
  EXPECT_EQ(report.passages_embedded, before->stats().passages);
  EXPECT_EQ(after->stats().passages, before->stats().passages);
  EXPECT_EQ(after->manifest().embedder_hash, "fake-hash-0002");
  EXPECT_EQ(after->manifest().chunk_tokens, before->manifest().chunk_tokens);
  EXPECT_EQ(after->list_documents(""), before->list_documents(""));
  ASSERT_EQ(load_sources(*after).size(), 1u);
  EXPECT_EQ(load_sources(*after)[0].path, load_sources(*before)[0].path);
  EXPECT_TRUE(after->verify().empty());
  for (const auto& [uri, hash] : before->list_documents("")) {
    const std::vector<Passage> wanted = before->passages(before->passages_of(uri));
    const std::vector<Passage> found = after->passages(after->passages_of(uri));
    ASSERT_EQ(found.size(), wanted.size());
    ASSERT_FALSE(found.empty());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(embedding_text(found[i]), embedding_text(wanted[i]));
      EXPECT_EQ(found[i].start, wanted[i].start);
      EXPECT_EQ(after->vectors({found[i].id}), embedder.embed({embedding_text(found[i])}));
    }
  }
}

TEST_F(ReembedTest, AnEmbedderThatReadsLessIsRefused) {
  OtherEmbedder embedder;
  embedder.most = 100;
  try {
    reembed_store(options_, embedder, progress_, cancel_);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("passages have up to 250 tokens, fake reads 98"));
  }
}

TEST_F(ReembedTest, EndsWhenCancelled) {
  OtherEmbedder embedder;
  embedder.before_embed = [this] { cancel_.cancel(); };
  const IndexReport report = reembed_store(options_, embedder, progress_, cancel_);
  EXPECT_TRUE(report.cancelled);
  EXPECT_LT(report.documents_added, 5);
}

}  // namespace
}  // namespace quarry
