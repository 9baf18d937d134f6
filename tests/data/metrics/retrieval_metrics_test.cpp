#include "data/metrics/retrieval_metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quarry {
namespace {

const std::vector<std::string> kRanking = {"d3", "d1", "d9", "d2"};

TEST(RetrievalMetrics, RecallIsOfAllRelevantAndHitOfAny) {
  const Relevance relevance = {{"d1", 1}, {"d2", 1}, {"d7", 1}, {"d3", 0}};
  EXPECT_DOUBLE_EQ(recall_at(kRanking, relevance, 1), 0.0);
  EXPECT_DOUBLE_EQ(recall_at(kRanking, relevance, 2), 1.0 / 3.0);
  EXPECT_DOUBLE_EQ(recall_at(kRanking, relevance, 100), 2.0 / 3.0);
  EXPECT_EQ(hit_at(kRanking, relevance, 1), 0.0);
  EXPECT_EQ(hit_at(kRanking, relevance, 2), 1.0);
}

TEST(RetrievalMetrics, ReciprocalRankStopsAtTheCut) {
  const Relevance relevance = {{"d9", 1}};
  EXPECT_DOUBLE_EQ(reciprocal_rank(kRanking, relevance, 10), 1.0 / 3.0);
  EXPECT_EQ(reciprocal_rank(kRanking, relevance, 2), 0.0);
}

TEST(RetrievalMetrics, NdcgTakesGradedGainsAsTheyAre) {
  const Relevance relevance = {{"d3", 1}, {"d2", 3}, {"d7", 2}};
  const double found = 1.0 + 3.0 / std::log2(5.0);
  const double ideal = 3.0 + 2.0 / std::log2(3.0) + 1.0 / 2.0;
  EXPECT_DOUBLE_EQ(ndcg_at(kRanking, relevance, 10), found / ideal);
  EXPECT_DOUBLE_EQ(ndcg_at(kRanking, relevance, 1), 1.0 / 3.0);
}

TEST(RetrievalMetrics, NegativeGainCountsAsNone) {
  EXPECT_EQ(ndcg_at({"d1"}, {{"d1", -1}, {"d2", 1}}, 10), 0.0);
}

TEST(RetrievalMetrics, NothingRelevantOrNothingFoundIsZero) {
  EXPECT_EQ(recall_at(kRanking, {}, 10), 0.0);
  EXPECT_EQ(ndcg_at(kRanking, {{"d1", 0}}, 10), 0.0);
  EXPECT_EQ(ndcg_at({}, {{"d1", 1}}, 10), 0.0);
  EXPECT_EQ(recall_at(kRanking, {{"d3", 1}}, 0), 0.0);
}

}  // namespace
}  // namespace quarry
