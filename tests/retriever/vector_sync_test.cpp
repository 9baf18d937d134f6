#include "retriever/vector_sync.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/retriever/index_fixture.h"

namespace quarry {
namespace {

class VectorSync : public IndexFixture {
 protected:
  // Every passage of the store and nothing else, each with its own vector.
  void expect_in_step(const SyncedVectors& synced) {
    int64_t count = 0;
    store_->for_each_vector(0, [&](int64_t id, const float* vector) {
      ++count;
      ASSERT_TRUE(synced.index->contains(id));
      EXPECT_NEAR(synced.index->score(vector, id), 1.0, 1e-5);
    });
    EXPECT_EQ(synced.index->size(), count);
    EXPECT_EQ(synced.info.generation, store_->stats().generation);
  }
};

TEST_F(VectorSync, FirstOpenBuildsFromTheStoreAndSyncSavesIt) {
  put_lines("a", "one\ntwo\nthree");
  const SyncedVectors first = open_vectors(folder_.path(), *store_);
  EXPECT_TRUE(first.changed);
  expect_in_step(first);
  EXPECT_FALSE(std::filesystem::exists(snapshot()));
  sync_vector_index(folder_.path());
  const SyncedVectors second = open_vectors(folder_.path(), *store_);
  EXPECT_FALSE(second.changed);
  expect_in_step(second);
}

TEST_F(VectorSync, LaggingSnapshotIsToppedUpAndPruned) {
  put_lines("a", "one\ntwo\nthree");
  put_lines("b", "four\nfive");
  sync_vector_index(folder_.path());
  put_lines("c", "six");
  remove("a");
  put_lines("b", "four\nnew words");
  SyncedVectors opened = open_vectors(folder_.path(), *store_);
  EXPECT_TRUE(opened.changed);
  expect_in_step(opened);
  put_lines("d", "seven");
  remove("c");
  refresh_vectors(*store_, opened);
  expect_in_step(opened);
}

TEST_F(VectorSync, EmptyStoreHasAnEmptyIndex) {
  sync_vector_index(folder_.path());
  const SyncedVectors opened = open_vectors(folder_.path(), *store_);
  EXPECT_FALSE(opened.changed);
  EXPECT_EQ(opened.index->size(), 0);
}

TEST_F(VectorSync, DamagedSnapshotIsMadeAnew) {
  put_lines("a", "one\ntwo");
  sync_vector_index(folder_.path());
  std::string bytes = read_bytes(snapshot());
  bytes[bytes.size() / 3] ^= 1;
  write_bytes(snapshot(), bytes);
  const SyncedVectors opened = open_vectors(folder_.path(), *store_);
  EXPECT_TRUE(opened.changed);
  expect_in_step(opened);
  sync_vector_index(folder_.path());
  EXPECT_NE(read_bytes(snapshot()), bytes);
}

TEST_F(VectorSync, SnapshotOfAnotherStoreOrEmbedderIsNotUsed) {
  put_lines("a", "one\ntwo");
  const SyncedVectors good = open_vectors(folder_.path(), *store_);
  const auto vector = good.index->search(std::vector<float>(kTestDim, 0.3F).data(), 1, 1);
  VectorSnapshotInfo other_store = good.info;
  other_store.store_created_at = "1999-01-01T00:00:00Z";
  VectorSnapshotInfo other_embedder = good.info;
  other_embedder.embedder_hash = "beef";
  VectorSnapshotInfo from_the_future = good.info;
  from_the_future.generation += 5;
  for (const VectorSnapshotInfo& info : {other_store, other_embedder, from_the_future}) {
    const auto strange = make_vector_index(VectorIndexKind::kFlat, kTestDim);
    strange->add({1, 2}, std::vector<float>(2 * kTestDim, 0.0F).data());
    strange->save(snapshot(), info);
    expect_in_step(open_vectors(folder_.path(), *store_));
  }
}

TEST_F(VectorSync, SnapshotThatLacksPassagesIsMadeAnew) {
  put_lines("a", "one\ntwo\nthree");
  SyncedVectors lying = open_vectors(folder_.path(), *store_);
  lying.index->remove({2});
  lying.index->save(snapshot(), lying.info);
  expect_in_step(open_vectors(folder_.path(), *store_));
}

TEST_F(VectorSync, KindAskedForIsMade) {
  put_lines("a", "one\ntwo\nthree");
  VectorSyncOptions options;
  options.kind = VectorIndexKind::kHnsw;
  sync_vector_index(folder_.path(), options);
  EXPECT_EQ(load_vector_index(snapshot()).index->kind(), VectorIndexKind::kHnsw);
  // An open without a wish takes what it finds.
  EXPECT_EQ(open_vectors(folder_.path(), *store_).index->kind(), VectorIndexKind::kHnsw);
  options.kind = VectorIndexKind::kFlat;
  sync_vector_index(folder_.path(), options);
  EXPECT_EQ(load_vector_index(snapshot()).index->kind(), VectorIndexKind::kFlat);
}

TEST_F(VectorSync, SyncInStepLeavesTheFileAlone) {
  put_lines("a", "one");
  sync_vector_index(folder_.path());
  const auto written = std::filesystem::last_write_time(snapshot());
  sync_vector_index(folder_.path());
  EXPECT_EQ(std::filesystem::last_write_time(snapshot()), written);
}

TEST(VectorSyncErrors, MissingIndexIsNotFound) {
  EXPECT_EQ(error_of([] { sync_vector_index("/nonexistent"); }).code(), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace quarry
