#include "generator/decode/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "data/core/error.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

std::vector<float> log_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::vector<int64_t> counts_of(const SamplingOptions& options, const std::vector<float>& logits,
                               int64_t draws) {
  Sampler sampler(options, {});
  std::vector<int64_t> counts(logits.size(), 0);
  for (int64_t i = 0; i < draws; ++i) {
    ++counts[static_cast<size_t>(
        sampler.sample(logits.data(), static_cast<int64_t>(logits.size())))];
  }
  return counts;
}

// Pearson's statistic against `probabilities`; a token that must not appear makes it infinite.
double chi_square(const std::vector<int64_t>& counts, const std::vector<double>& probabilities,
                  int64_t draws) {
  double sum = 0.0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double wanted = probabilities[i] * static_cast<double>(draws);
    const double difference = static_cast<double>(counts[i]) - wanted;
    if (wanted == 0.0 && counts[i] != 0) return std::numeric_limits<double>::infinity();
    if (wanted > 0.0) sum += difference * difference / wanted;
  }
  return sum;
}

constexpr int64_t kDraws = 40000;
// 99.9 % quantile of chi-square with 4 degrees of freedom, an upper bound for fewer.
constexpr double kChiSquareBound = 18.47;

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  Sampler sampler(SamplingOptions(), {});
  const std::vector<float> logits = {0.0f, 3.0f, 3.0f, -1.0f};
  EXPECT_EQ(sampler.sample(logits.data(), 4), 1);
}

TEST(Sampler, TemperatureOneDrawsTheSoftmax) {
  const std::vector<double> p = {0.4, 0.3, 0.15, 0.1, 0.05};
  SamplingOptions options;
  options.temperature = 1.0;
  options.seed = 7;
  EXPECT_LT(chi_square(counts_of(options, log_of(p), kDraws), p, kDraws), kChiSquareBound);
}

TEST(Sampler, TemperatureHalfSquaresTheProbabilities) {
  const std::vector<double> p = {0.4, 0.3, 0.15, 0.1, 0.05};
  std::vector<double> wanted;
  double sum = 0.0;
  for (double value : p) sum += value * value;
  for (double value : p) wanted.push_back(value * value / sum);
  SamplingOptions options;
  options.temperature = 0.5;
  options.seed = 11;
  EXPECT_LT(chi_square(counts_of(options, log_of(p), kDraws), wanted, kDraws), kChiSquareBound);
}

struct FilterCase {
  int64_t top_k;
  double top_p;
  double min_p;
  std::vector<double> wanted;  // before normalizing
};

class SamplerFilter : public ::testing::TestWithParam<FilterCase> {};

TEST_P(SamplerFilter, KeepsExactlyTheWantedTokens) {
  std::vector<double> wanted = GetParam().wanted;
  double sum = 0.0;
  for (double value : wanted) sum += value;
  for (double& value : wanted) value /= sum;
  SamplingOptions options;
  options.temperature = 1.0;
  options.top_k = GetParam().top_k;
  options.top_p = GetParam().top_p;
  options.min_p = GetParam().min_p;
  options.seed = 3;
  const std::vector<float> logits = log_of({0.1, 0.4, 0.05, 0.3, 0.15});
  EXPECT_LT(chi_square(counts_of(options, logits, kDraws), wanted, kDraws), kChiSquareBound);
}

INSTANTIATE_TEST_SUITE_P(
    All, SamplerFilter,
    ::testing::Values(
        FilterCase{1, 1.0, 0.0, {0, 1, 0, 0, 0}}, FilterCase{2, 1.0, 0.0, {0, 0.4, 0, 0.3, 0}},
        FilterCase{99, 1.0, 0.0, {0.1, 0.4, 0.05, 0.3, 0.15}},
        FilterCase{0, 0.3, 0.0, {0, 1, 0, 0, 0}}, FilterCase{0, 0.6, 0.0, {0, 0.4, 0, 0.3, 0}},
        FilterCase{0, 0.8, 0.0, {0, 0.4, 0, 0.3, 0.15}},
        FilterCase{0, 1.0, 0.5, {0, 0.4, 0, 0.3, 0}}, FilterCase{0, 1.0, 1.0, {0, 1, 0, 0, 0}},
        FilterCase{3, 0.8, 0.0, {0, 0.4, 0, 0.3, 0}},  // of .4 .3 .15: .82 by two
        FilterCase{4, 0.99, 0.3, {0, 0.4, 0, 0.3, 0.15}}));

TEST(Sampler, FiltersKeepTheLowerIdOfATie) {
  SamplingOptions options;
  options.temperature = 1.0;
  options.top_k = 2;
  const std::vector<int64_t> counts = counts_of(options, std::vector<float>(6, 1.0f), 1000);
  EXPECT_EQ(counts[0] + counts[1], 1000);
  EXPECT_GT(counts[1], 400);
}

TEST(Sampler, PenaltyLowersTokensOfPromptAndAnswer) {
  SamplingOptions options;
  options.repetition_penalty = 2.0;
  Sampler sampler(options, {0, 3});
  const std::vector<float> logits = {4.0f, 3.0f, 2.5f, -0.5f};
  EXPECT_EQ(sampler.sample(logits.data(), 4), 1);  // 2, 3, 2.5, -1
  EXPECT_EQ(sampler.sample(logits.data(), 4), 2);  // 2, 1.5, 2.5, -1
  EXPECT_EQ(sampler.sample(logits.data(), 4), 0);  // 2, 1.5, 1.25, -1
}

TEST(Sampler, PenaltyPushesNegativeLogitsDown) {
  SamplingOptions options;
  options.repetition_penalty = 2.0;
  Sampler sampler(options, {0});
  const std::vector<float> logits = {-1.0f, -1.5f};
  EXPECT_EQ(sampler.sample(logits.data(), 2), 1);
}

TEST(Sampler, TheSameSeedGivesTheSameDraws) {
  SamplingOptions options;
  options.temperature = 1.0;
  options.seed = 42;
  const std::vector<float> logits = log_of({0.25, 0.25, 0.25, 0.25});
  std::vector<int32_t> first;
  std::vector<int32_t> other_seed;
  for (uint64_t seed : {42, 42, 43}) {
    options.seed = seed;
    Sampler sampler(options, {});
    std::vector<int32_t> draws;
    for (int i = 0; i < 24; ++i) draws.push_back(sampler.sample(logits.data(), 4));
    if (seed == 43) {
      other_seed = draws;
    } else if (first.empty()) {
      first = draws;
    } else {
      EXPECT_EQ(draws, first);
    }
  }
  EXPECT_NE(other_seed, first);
}

TEST(Sampler, SplitMix64MatchesItsPublishedStream) {
  SplitMix64 random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317ULL);
  EXPECT_EQ(random.next(), 3203168211198807973ULL);
  EXPECT_EQ(random.next(), 9817491932198370423ULL);
}

TEST(Sampler, MinusInfinityIsNeverDrawn) {
  SamplingOptions options;
  options.temperature = 5.0;
  std::vector<float> logits = {-std::numeric_limits<float>::infinity(), 0.0f, 0.0f};
  EXPECT_EQ(counts_of(options, logits, 1000)[0], 0);
}

TEST(Sampler, NanIsAnError) {
  Sampler sampler(SamplingOptions(), {});
  const std::vector<float> logits = {0.0f, std::nanf("")};
  try {
    sampler.sample(logits.data(), 2);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_THAT(error.what(), HasSubstr("NaN for token 1"));
  }
}

void expect_invalid(const SamplingOptions& options, const std::string& message) {
  test::expect_error([&] { validate(options); }, ErrorCode::kInvalidArgument, message);
}

TEST(SamplingOptions, BadFieldsAreNamedWithValueAndRange) {
  SamplingOptions options;
  EXPECT_NO_THROW(validate(options));
  options.temperature = -0.5;
  expect_invalid(options, "temperature is -0.5, must be 0 (greedy) to 100");
  options = SamplingOptions();
  options.temperature = std::nan("");
  expect_invalid(options, "temperature is nan");
  options = SamplingOptions();
  options.top_k = -2;
  expect_invalid(options, "top_k is -2, must be 0 (off) or more");
  options = SamplingOptions();
  options.top_p = 0.0;
  expect_invalid(options, "top_p is 0, must be above 0 and at most 1");
  options = SamplingOptions();
  options.min_p = 1.5;
  expect_invalid(options, "min_p is 1.5, must be 0 (off) to 1");
  options = SamplingOptions();
  options.repetition_penalty = 0.0;
  expect_invalid(options, "repetition_penalty is 0, must be above 0");
}

}  // namespace
}  // namespace quarry
