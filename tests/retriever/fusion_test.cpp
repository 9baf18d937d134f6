#include "retriever/fusion.h"

#include <gtest/gtest.h>

namespace quarry {
namespace {

std::vector<int64_t> ids_of(const std::vector<FusionCandidate>& candidates) {
  std::vector<int64_t> ids;
  for (const FusionCandidate& candidate : candidates) ids.push_back(candidate.id);
  return ids;
}

TEST(Fusion, MinMaxScalesEachModeOverTheCandidates) {
  std::vector<FusionCandidate> candidates = {
      {1, 0.8, 5.0, 0}, {2, 0.6, 10.0, 0}, {3, 0.4, std::nullopt, 0}};
  fuse(candidates, Fusion::kMinMax, 0.3);
  EXPECT_EQ(ids_of(candidates), (std::vector<int64_t>{2, 1, 3}));
  EXPECT_NEAR(candidates[0].score, 0.3 * 0.5 + 0.7 * 1.0, 1e-12);
  EXPECT_NEAR(candidates[1].score, 0.3 * 1.0 + 0.7 * 0.5, 1e-12);
  EXPECT_NEAR(candidates[2].score, 0.0, 1e-12);
}

TEST(Fusion, WeightOneIsDenseOrderAndZeroLexicalOrder) {
  const std::vector<FusionCandidate> candidates = {
      {1, 0.1, 9.0, 0}, {2, 0.9, 1.0, 0}, {3, 0.5, 5.0, 0}};
  auto dense = candidates;
  fuse(dense, Fusion::kMinMax, 1.0);
  EXPECT_EQ(ids_of(dense), (std::vector<int64_t>{2, 3, 1}));
  auto lexical = candidates;
  fuse(lexical, Fusion::kMinMax, 0.0);
  EXPECT_EQ(ids_of(lexical), (std::vector<int64_t>{1, 3, 2}));
}

TEST(Fusion, OnlyOneModeGivesItsOrder) {
  std::vector<FusionCandidate> candidates = {{1, 0.2, std::nullopt, 0}, {2, 0.3, std::nullopt, 0}};
  fuse(candidates, Fusion::kMinMax, 0.3);
  EXPECT_EQ(ids_of(candidates), (std::vector<int64_t>{2, 1}));
}

TEST(Fusion, EqualScoresAreInOrderOfId) {
  std::vector<FusionCandidate> candidates = {{9, 0.5, 2.0, 0}, {4, 0.5, 2.0, 0}};
  for (const Fusion fusion : {Fusion::kMinMax, Fusion::kRrf}) {
    fuse(candidates, fusion, 0.3);
    EXPECT_EQ(ids_of(candidates), (std::vector<int64_t>{4, 9}));
  }
}

TEST(Fusion, ReciprocalRanksAddUp) {
  std::vector<FusionCandidate> candidates = {
      {1, 0.9, std::nullopt, 0}, {2, 0.8, 3.0, 0}, {3, 0.7, 7.0, 0}};
  fuse(candidates, Fusion::kRrf, 0.3);
  EXPECT_EQ(ids_of(candidates), (std::vector<int64_t>{3, 2, 1}));
  EXPECT_NEAR(candidates[0].score, 1.0 / 63 + 1.0 / 61, 1e-12);
  EXPECT_NEAR(candidates[1].score, 1.0 / 62 + 1.0 / 62, 1e-12);
  EXPECT_NEAR(candidates[2].score, 1.0 / 61, 1e-12);
}

TEST(Fusion, NoCandidatesAreNoTrouble) {
  std::vector<FusionCandidate> none;
  fuse(none, Fusion::kMinMax, 0.5);
  fuse(none, Fusion::kRrf, 0.5);
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace quarry
