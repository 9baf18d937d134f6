#include "retriever/vector_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "tests/data/store/store_fixture.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kDim = 24;

std::vector<float> random_unit_vectors(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(count * kDim));
  for (int64_t i = 0; i < count; ++i) {
    float* row = rows.data() + i * kDim;
    float squares = 0.0F;
    for (int64_t d = 0; d < kDim; ++d) {
      row[d] = normal(random);
      squares += row[d] * row[d];
    }
    for (int64_t d = 0; d < kDim; ++d) row[d] /= std::sqrt(squares);
  }
  return rows;
}

std::vector<int64_t> ids_from(int64_t first, int64_t count, int64_t step = 1) {
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = first + static_cast<int64_t>(i) * step;
  return ids;
}

double dot(const float* a, const float* b) { return std::inner_product(a, a + kDim, b, 0.0); }

std::vector<int64_t> ids_of(const std::vector<VectorNeighbor>& neighbors) {
  std::vector<int64_t> ids;
  for (const VectorNeighbor& neighbor : neighbors) ids.push_back(neighbor.id);
  return ids;
}

// Ids of the best by a loop in double precision.
std::vector<int64_t> brute_force(const float* query, const std::vector<int64_t>& ids,
                                 const std::vector<float>& vectors, size_t top_k) {
  std::vector<std::pair<double, int64_t>> scored;
  for (size_t i = 0; i < ids.size(); ++i) {
    scored.emplace_back(-dot(query, vectors.data() + static_cast<int64_t>(i) * kDim), ids[i]);
  }
  std::sort(scored.begin(), scored.end());
  std::vector<int64_t> best;
  for (size_t i = 0; i < std::min(top_k, scored.size()); ++i) best.push_back(scored[i].second);
  return best;
}

double recall(const std::vector<int64_t>& found, const std::vector<int64_t>& wanted) {
  double shared = 0;
  for (const int64_t id : wanted) shared += std::count(found.begin(), found.end(), id) > 0 ? 1 : 0;
  return shared / static_cast<double>(wanted.size());
}

class AnyVectorIndex : public ::testing::TestWithParam<VectorIndexKind> {
 protected:
  // Exact for flat; a graph of this size and breadth finds nearly all.
  double least_recall() const { return GetParam() == VectorIndexKind::kFlat ? 1.0 : 0.97; }

  TemporaryFolder folder_;
  std::unique_ptr<VectorIndex> index_ = make_vector_index(GetParam(), kDim);
};

TEST_P(AnyVectorIndex, FindsWhatALoopFinds) {
  const std::vector<float> vectors = random_unit_vectors(2000, 1);
  const std::vector<int64_t> ids = ids_from(10, 2000, 3);
  index_->add(ids, vectors.data());
  const std::vector<float> queries = random_unit_vectors(40, 2);
  const auto found = index_->search(queries.data(), 40, 10);
  double sum = 0;
  for (size_t q = 0; q < 40; ++q) {
    const float* query = queries.data() + static_cast<int64_t>(q) * kDim;
    ASSERT_EQ(found[q].size(), 10U);
    sum += recall(ids_of(found[q]), brute_force(query, ids, vectors, 10));
    for (const VectorNeighbor& neighbor : found[q]) {
      EXPECT_NEAR(neighbor.score, index_->score(query, neighbor.id), 1e-5);
    }
    EXPECT_TRUE(std::is_sorted(found[q].begin(), found[q].end(),
                               [](const auto& a, const auto& b) { return a.score > b.score; }));
  }
  EXPECT_GE(sum / 40, least_recall());
}

TEST_P(AnyVectorIndex, RemovedAreNeverFoundAndTheRestStill) {
  const std::vector<float> vectors = random_unit_vectors(1000, 3);
  const std::vector<int64_t> ids = ids_from(0, 1000);
  index_->add(ids, vectors.data());
  // In steps, so that a graph both carries removed nodes and is built anew.
  std::vector<int64_t> kept = ids;
  for (int64_t round = 0; round < 9; ++round) {
    std::vector<int64_t> gone = ids_from(round, 55, 18);
    gone.push_back(5000);  // never there
    index_->remove(gone);
    kept.erase(std::remove_if(kept.begin(), kept.end(),
                              [&](int64_t id) { return id % 18 == round && id < round + 55 * 18; }),
               kept.end());
    ASSERT_EQ(index_->size(), static_cast<int64_t>(kept.size()));
    std::vector<float> left;
    for (const int64_t id : kept) {
      left.insert(left.end(), vectors.begin() + id * kDim, vectors.begin() + (id + 1) * kDim);
    }
    const std::vector<float> queries = random_unit_vectors(10, static_cast<unsigned>(round));
    double sum = 0;
    for (int64_t q = 0; q < 10; ++q) {
      const float* query = queries.data() + q * kDim;
      const auto found = ids_of(index_->search(query, 1, 20)[0]);
      ASSERT_EQ(found.size(), 20U);
      for (const int64_t id : found) EXPECT_TRUE(index_->contains(id));
      sum += recall(found, brute_force(query, kept, left, 20));
      EXPECT_NEAR(index_->score(query, kept[7]), dot(query, left.data() + 7 * kDim), 1e-5);
    }
    EXPECT_GE(sum / 10, least_recall());
  }
}

TEST_P(AnyVectorIndex, SearchAmongIsExact) {
  const std::vector<float> vectors = random_unit_vectors(9000, 4);
  index_->add(ids_from(0, 9000), vectors.data());
  std::vector<int64_t> eligible = ids_from(1, 4500, 2);
  std::vector<float> theirs;
  for (const int64_t id : eligible) {
    theirs.insert(theirs.end(), vectors.begin() + id * kDim, vectors.begin() + (id + 1) * kDim);
  }
  const std::vector<float> query = random_unit_vectors(1, 5);
  const auto wanted = brute_force(query.data(), eligible, theirs, 15);
  eligible.push_back(777777);
  EXPECT_EQ(ids_of(index_->search_among(query.data(), eligible, 15)), wanted);
  EXPECT_TRUE(index_->search_among(query.data(), {}, 15).empty());
}

TEST_P(AnyVectorIndex, EmptyOrSmallIndexGivesFewerHits) {
  const std::vector<float> vectors = random_unit_vectors(3, 6);
  EXPECT_TRUE(index_->search(vectors.data(), 1, 5)[0].empty());
  index_->add({4, 5, 6}, vectors.data());
  EXPECT_EQ(index_->search(vectors.data(), 1, 5)[0].size(), 3U);
  index_->remove({4, 5, 6});
  EXPECT_TRUE(index_->search(vectors.data(), 1, 5)[0].empty());
  EXPECT_EQ(index_->size(), 0);
}

TEST_P(AnyVectorIndex, RepeatedIdIsRefusedAndChangesNothing) {
  const std::vector<float> vectors = random_unit_vectors(3, 7);
  index_->add({1}, vectors.data());
  const Error error = error_of([&] { index_->add({2, 3, 1}, vectors.data()); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_STREQ(error.what(), "vector index: id 1 is there already");
  EXPECT_FALSE(index_->contains(2));
  EXPECT_EQ(index_->size(), 1);
}

TEST_P(AnyVectorIndex, SavedIndexLoadsWithIdsRemovalsAndInfo) {
  const std::vector<float> vectors = random_unit_vectors(300, 8);
  index_->add(ids_from(50, 300), vectors.data());
  index_->remove({51, 60, 99});
  VectorSnapshotInfo info;
  info.generation = 12;
  info.last_id = 349;
  info.embedder_hash = "abc";
  info.store_created_at = "2026-11-24T00:00:00Z";
  const fs::path path = folder_ / "vectors.faiss";
  index_->save(path, info);
  const VectorSnapshot loaded = load_vector_index(path);
  EXPECT_EQ(loaded.info.generation, 12);
  EXPECT_EQ(loaded.info.last_id, 349);
  EXPECT_EQ(loaded.info.embedder_hash, "abc");
  EXPECT_EQ(loaded.info.store_created_at, info.store_created_at);
  EXPECT_EQ(loaded.index->kind(), GetParam());
  EXPECT_EQ(loaded.index->size(), 297);
  EXPECT_FALSE(loaded.index->contains(60));
  const std::vector<float> queries = random_unit_vectors(5, 9);
  const auto before = index_->search(queries.data(), 5, 10);
  const auto after = loaded.index->search(queries.data(), 5, 10);
  for (size_t q = 0; q < 5; ++q) EXPECT_EQ(ids_of(before[q]), ids_of(after[q]));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), 1);
}

INSTANTIATE_TEST_SUITE_P(Kinds, AnyVectorIndex,
                         ::testing::Values(VectorIndexKind::kFlat, VectorIndexKind::kHnsw),
                         [](const auto& info) { return vector_index_kind_name(info.param); });

class DamagedSnapshot : public ::testing::TestWithParam<VectorIndexKind> {
 protected:
  DamagedSnapshot() {
    const auto index = make_vector_index(GetParam(), kDim);
    index->add(ids_from(1, 6), random_unit_vectors(6, 1).data());
    index->save(path_, {});
    bytes_ = read_bytes(path_);
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_ / "vectors.faiss";
  std::string bytes_;
};

TEST_P(DamagedSnapshot, EveryTruncationIsRefused) {
  for (size_t size = 0; size < bytes_.size(); ++size) {
    write_bytes(path_, bytes_.substr(0, size));
    const Error error = error_of([&] { load_vector_index(path_); });
    ASSERT_EQ(error.code(), ErrorCode::kCorruptData) << size;
    ASSERT_THAT(error.what(), HasSubstr(path_.string())) << size;
  }
}

TEST_P(DamagedSnapshot, EveryFlippedByteIsRefused) {
  for (size_t at = 0; at < bytes_.size(); ++at) {
    std::string bad = bytes_;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    write_bytes(path_, bad);
    ASSERT_EQ(error_of([&] { load_vector_index(path_); }).code(), ErrorCode::kCorruptData) << at;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, DamagedSnapshot,
                         ::testing::Values(VectorIndexKind::kFlat, VectorIndexKind::kHnsw),
                         [](const auto& info) { return vector_index_kind_name(info.param); });

TEST(VectorIndexErrors, NameTheValueAndTheChoices) {
  EXPECT_STREQ(error_of([] { parse_vector_index_kind("ivf"); }).what(),
               "vector index \"ivf\" is unknown: use flat or hnsw");
  EXPECT_STREQ(error_of([] { make_vector_index(VectorIndexKind::kFlat, 0); }).what(),
               "vector index: 0 dimensions, wanted 1 to 65536");
  const auto index = make_vector_index(VectorIndexKind::kFlat, kDim);
  const std::vector<float> query(kDim, 0.1F);
  EXPECT_STREQ(error_of([&] { index->score(query.data(), 3); }).what(),
               "vector index: no vector 3");
  EXPECT_STREQ(error_of([&] { index->search(query.data(), 1, 0); }).what(),
               "top_k is 0, wanted at least 1");
  EXPECT_EQ(error_of([] { load_vector_index("/nonexistent/v"); }).code(), ErrorCode::kNotFound);
  EXPECT_EQ(error_of([&] { index->save("/nonexistent/v", {}); }).code(), ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace quarry
