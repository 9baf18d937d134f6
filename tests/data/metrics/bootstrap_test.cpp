#include "data/metrics/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/core/error.h"

namespace quarry {
namespace {

TEST(Bootstrap, ConstantValuesGiveAnEmptyInterval) {
  const Estimate estimate = bootstrap_mean(std::vector<double>(50, 0.25));
  EXPECT_EQ(estimate.mean, 0.25);
  EXPECT_EQ(estimate.low, 0.25);
  EXPECT_EQ(estimate.high, 0.25);
  EXPECT_EQ(estimate.count, 50);
}

TEST(Bootstrap, IntervalOfAShareIsNearTheNormalOne) {
  std::vector<double> values(1000, 0.0);
  std::fill(values.begin(), values.begin() + 300, 1.0);
  BootstrapOptions options;
  options.resamples = 4000;
  const Estimate estimate = bootstrap_mean(values, options);
  const double half = 1.96 * 0.0144914;  // sqrt(.3 * .7 / 1000)
  EXPECT_NEAR(estimate.low, 0.3 - half, 0.003);
  EXPECT_NEAR(estimate.high, 0.3 + half, 0.003);
}

TEST(Bootstrap, SameSeedSameIntervalAnotherSeedAnother) {
  std::vector<double> values;
  for (int i = 0; i < 97; ++i) values.push_back(std::sin(i));
  BootstrapOptions other;
  other.seed = 2;
  EXPECT_EQ(bootstrap_mean(values).low, bootstrap_mean(values).low);
  EXPECT_NE(bootstrap_mean(values).low, bootstrap_mean(values, other).low);
}

TEST(Bootstrap, NoValuesGiveZeros) {
  const Estimate estimate = bootstrap_mean({});
  EXPECT_EQ(estimate.count, 0);
  EXPECT_EQ(estimate.high, 0.0);
}

TEST(Bootstrap, NoResamplesIsRefused) {
  BootstrapOptions options;
  options.resamples = 0;
  try {
    bootstrap_mean({1.0}, options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "bootstrap: 0 resamples, wanted at least 1");
  }
}

}  // namespace
}  // namespace quarry
