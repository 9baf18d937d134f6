#include "finetune/loss/listwise_softmax.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "data/core/error.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

std::vector<double> some_scores(size_t k, uint64_t seed) {
  const std::vector<float> values =
      test::RandomValues(seed).normal(static_cast<int64_t>(k), 0.0, 0.5);
  return {values.begin(), values.end()};
}

std::vector<double> some_target(size_t k, uint64_t seed) {
  std::vector<double> target = some_scores(k, seed);
  for (double& value : target) value = std::exp(value);
  const double total = std::accumulate(target.begin(), target.end(), 0.0);
  for (double& value : target) value /= total;
  return target;
}

// As it is printed, in more digits.
long double plain_divergence(const std::vector<double>& scores, const std::vector<double>& target,
                             double temperature) {
  long double total = 0.0L;
  for (const double score : scores) {
    total += std::exp(static_cast<long double>(score) / temperature);
  }
  long double divergence = 0.0L;
  for (size_t z = 0; z < scores.size(); ++z) {
    if (target[z] == 0.0) continue;
    const long double p = std::exp(static_cast<long double>(scores[z]) / temperature) / total;
    divergence += target[z] * std::log(target[z] / p);
  }
  return divergence;
}

TEST(ListwiseSoftmax, EqualsThePlainFormula) {
  for (const size_t k : {1, 2, 7, 67}) {
    for (const double temperature : {0.05, 1.0}) {
      const std::vector<double> scores = some_scores(k, k);
      const std::vector<double> target = some_target(k, k + 1);
      EXPECT_NEAR(listwise_softmax_loss(scores, target, temperature).loss,
                  static_cast<double>(plain_divergence(scores, target, temperature)), 1e-9);
      std::vector<double> one(k, 0.0);
      one[k / 2] = 1.0;
      EXPECT_NEAR(listwise_softmax_loss(scores, k / 2, temperature).loss,
                  static_cast<double>(plain_divergence(scores, one, temperature)), 1e-9);
    }
  }
}

TEST(ListwiseSoftmax, GradientsEqualFiniteDifferencesAndSumToZero) {
  std::vector<double> scores = some_scores(5, 3);
  const std::vector<double> target = some_target(5, 4);
  const ListwiseLoss result = listwise_softmax_loss(scores, target, 0.2);
  double sum = 0.0;
  for (size_t z = 0; z < scores.size(); ++z) {
    const double before = scores[z];
    scores[z] = before + 1e-5;
    const double up = listwise_softmax_loss(scores, target, 0.2).loss;
    scores[z] = before - 1e-5;
    const double down = listwise_softmax_loss(scores, target, 0.2).loss;
    scores[z] = before;
    EXPECT_NEAR(result.score_gradients[z], (up - down) / 2e-5, 1e-7);
    sum += result.score_gradients[z];
  }
  EXPECT_NEAR(sum, 0.0, 1e-12);
}

TEST(ListwiseSoftmax, ScoresBeyondWhatExpHoldsAreNoTrouble) {
  EXPECT_NEAR(listwise_softmax_loss({3000.0, 0.0}, size_t{1}, 1.0).loss, 3000.0, 1e-9);
}

TEST(ListwiseSoftmax, InputsThatDoNotFitAreNamed) {
  const auto error_of = [](const std::vector<double>& scores, const std::vector<double>& target,
                           double temperature) -> std::string {
    try {
      listwise_softmax_loss(scores, target, temperature);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of({}, {}, 1.0), testing::HasSubstr("over 0 scores"));
  EXPECT_THAT(error_of({1.0}, {1.0, 0.0}, 1.0), testing::HasSubstr("1 scores and a target of 2"));
  EXPECT_THAT(error_of({1.0}, {1.0}, 0.0), testing::HasSubstr("temperature of a listwise loss"));
}

TEST(RankOfPassage, IsBehindThoseOfTheSameScore) {
  EXPECT_EQ(rank_of_passage({3.0, 1.0, 2.0}, 0), 1u);
  EXPECT_EQ(rank_of_passage({1.0, 3.0, 2.0}, 0), 3u);
  EXPECT_EQ(rank_of_passage({1.0, 1.0, 0.0}, 0), 2u);
}

}  // namespace
}  // namespace quarry
