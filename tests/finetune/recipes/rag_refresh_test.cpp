#include "finetune/recipes/rag_refresh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "finetune/recipes/rag_passages.h"
#include "retriever/vector_sync.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

constexpr int kCount = 7;

class RagRefreshTest : public ::testing::Test {
 protected:
  RagRefreshTest() : bert_(write_tiny_bert_folder(folder_.path() / "bert", 4)) {
    LoadedEncoder encoder = load_text_encoder(bert_.string(), kernels::Precision::kFast);
    LoraSettings settings;
    settings.r = 4;
    settings.target_all_linear = true;
    settings.task_type = "FEATURE_EXTRACTION";
    trained_.config = std::make_unique<LoraConfig>(LoraConfig::from_settings(settings));
    trained_.adapter = create_adapter(*trained_.config, encoder.model->linear_slots(), "false", 4);
    embedder_ = std::make_shared<Embedder>(std::move(encoder), trained_.adapter);
    make_index();
    options_.every = 3;
  }

  // As an encoder without the adapter sees it.
  void make_index() {
    StoreManifest manifest;
    manifest.embedder_name = bert_.string();
    manifest.embedder_hash = embedder_->content_hash();
    manifest.dim = embedder_->dim();
    std::filesystem::create_directories(index());
    const auto made = PassageStore::create(index() / kStoreFileName, manifest);
    made->begin();
    const std::vector<std::string> texts = {"the old sea",  "a quiet moon", "rivers run",
                                            "open sources", "a brown fox",  "people walked",
                                            "it is time"};
    for (int i = 0; i < kCount; ++i) {
      Document document;
      document.uri = concat("/", i);
      document.text = texts[static_cast<size_t>(i)];
      Passage passage;
      passage.text = document.text;
      passage.end = static_cast<int64_t>(document.text.size());
      made->put_document(document, {passage}, embedder_->embed_passages({passage.text}).data());
    }
    made->commit();
    store_ = PassageStore::open(index() / kStoreFileName, PassageStore::Mode::kReadOnly);
    ids_ = store_->passages_where({});
  }
  std::filesystem::path index() const { return folder_.path() / "index"; }

  // What a step of training does.
  void move_adapter() {
    for (auto& [path, weights] : trained_.adapter->mutable_weights()) {
      for (float& value : weights.b) value += 0.05f;
      weights.pack();
    }
  }

  // Of every passage with some question.
  std::vector<double> scores(const VectorIndex& vectors) const {
    std::vector<double> found;
    for (const int64_t id : ids_) found.push_back(vectors.score(query_.data(), id));
    return found;
  }
  std::vector<double> scores_now() const {
    std::vector<double> wanted;
    for (const Passage& passage : store_->passages(ids_)) {
      const std::vector<float> vector =
          embedder_->embed_passages_with(*trained_.adapter, {embedding_text(passage)});
      wanted.push_back(std::inner_product(query_.begin(), query_.end(), vector.begin(), 0.0));
    }
    return wanted;
  }

  test::TemporaryFolder folder_;
  std::filesystem::path bert_;
  RunAdapter trained_;
  std::shared_ptr<Embedder> embedder_;
  std::unique_ptr<PassageStore> store_;
  std::vector<int64_t> ids_;
  std::vector<float> query_ = std::vector<float>(64, 0.125f);
  IndexRefreshOptions options_;
};

TEST_F(RagRefreshTest, ARoundHasTheVectorsOfItsBeginning) {
  IndexRefresh refresh(*store_, *embedder_, trained_, options_);
  for (int64_t step = 1; step <= 3; ++step) {
    move_adapter();
    refresh.after_step(step);
    EXPECT_EQ(refresh.vectors(), nullptr) << step;
  }
  EXPECT_EQ(refresh.age(3), 3);
  const std::vector<double> wanted = scores_now();
  for (int64_t step = 4; step <= 6; ++step) {
    EXPECT_EQ(refresh.vectors(), nullptr) << step;
    move_adapter();
    refresh.after_step(step);
  }
  ASSERT_NE(refresh.vectors(), nullptr);
  EXPECT_EQ(refresh.vectors()->size(), kCount);
  EXPECT_EQ(refresh.age(6), 3);
  EXPECT_THAT(scores(*refresh.vectors()), testing::Pointwise(testing::DoubleNear(1e-6), wanted));
  EXPECT_THAT(scores_now(), testing::Not(testing::Pointwise(testing::DoubleNear(1e-3), wanted)));
}

TEST_F(RagRefreshTest, AnIndexThatIsOldFromTheStartIsRefreshedAtOnce) {
  options_.is_stale = true;
  IndexRefresh refresh(*store_, *embedder_, trained_, options_);
  const std::vector<double> wanted = scores_now();
  for (int64_t step = 1; step <= 3; ++step) {
    move_adapter();
    refresh.after_step(step);
  }
  ASSERT_NE(refresh.vectors(), nullptr);
  EXPECT_THAT(scores(*refresh.vectors()), testing::Pointwise(testing::DoubleNear(1e-6), wanted));
}

TEST_F(RagRefreshTest, ACheckpointInsideARoundGoesOnBitEqual) {
  options_.is_stale = true;
  IndexRefresh whole(*store_, *embedder_, trained_, options_);
  for (int64_t step = 1; step <= 5; ++step) {
    move_adapter();
    whole.after_step(step);
  }
  Checkpoint checkpoint;
  checkpoint.step = 5;
  whole.save(checkpoint);
  IndexRefresh resumed(*store_, *embedder_, trained_, options_);
  resumed.restore(checkpoint, "checkpoint-5");
  EXPECT_EQ(scores(*resumed.vectors()), scores(*whole.vectors()));
  move_adapter();
  whole.after_step(6);
  resumed.after_step(6);
  EXPECT_EQ(scores(*resumed.vectors()), scores(*whole.vectors()));
  EXPECT_EQ(resumed.age(6), 3);
  checkpoint.parameters.clear();
  try {
    resumed.restore(checkpoint, "checkpoint-5");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("checkpoint-5: parameter refresh_whole."));
  }
}

TEST_F(RagRefreshTest, OfCandidatesByOldVectorsTheNearestByNewOnesAreKept) {
  const auto retriever = Retriever::open(index(), embedder_);
  LivePassagesParts parts;
  parts.retriever = retriever.get();
  parts.store = store_.get();
  parts.embedder = embedder_.get();
  parts.adapter = trained_.adapter.get();
  for (int i = 0; i < 5; ++i) move_adapter();
  const auto found_among = [&](int64_t candidates) {
    std::vector<double> scores;
    const auto found = LivePassages(parts, candidates).find({"sea"}, query_, 2);
    for (const Hit& hit : found.front().hits) scores.push_back(hit.score);
    return scores;
  };
  std::vector<double> best = scores_now();
  std::sort(best.rbegin(), best.rend());
  best.resize(2);
  EXPECT_THAT(found_among(kCount), testing::Pointwise(testing::DoubleNear(1e-6), best));
  EXPECT_THAT(found_among(0), testing::Not(testing::Pointwise(testing::DoubleNear(1e-3), best)));

  options_.every = 1;
  options_.is_stale = true;
  IndexRefresh refresh(*store_, *embedder_, trained_, options_);
  refresh.after_step(1);
  parts.refresh = &refresh;
  EXPECT_THAT(found_among(0), testing::Pointwise(testing::DoubleNear(1e-6), best));
}

}  // namespace
}  // namespace quarry
