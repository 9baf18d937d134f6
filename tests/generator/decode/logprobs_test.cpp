#include "generator/decode/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace quarry {
namespace {

TEST(Logprobs, AreThoseOfTheSoftmax) {
  const std::vector<float> logits = {1.0f, 3.0f, 3.0f, -2.0f, 0.5f};
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(double{logit});
  const TokenLogprobs result = token_logprobs(logits.data(), 5, 4, 3);
  EXPECT_EQ(result.token, 4);
  EXPECT_NEAR(result.logprob, 0.5 - std::log(sum), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 1);  // of two equal ones the lower id
  EXPECT_EQ(result.top[1].token, 2);
  EXPECT_EQ(result.top[2].token, 0);
  EXPECT_NEAR(result.top[0].logprob, 3.0 - std::log(sum), 1e-6);
  EXPECT_NEAR(result.top[2].logprob, 1.0 - std::log(sum), 1e-6);
}

TEST(Logprobs, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits = {1000.0f, 999.0f, -std::numeric_limits<float>::infinity()};
  const TokenLogprobs result = token_logprobs(logits.data(), 3, 0, 20);
  EXPECT_NEAR(result.logprob, -std::log1p(std::exp(-1.0)), 1e-5);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[2].logprob, -std::numeric_limits<float>::infinity());
}

TEST(Logprobs, NoneOfTheLikeliestAreWanted) {
  const std::vector<float> logits = {0.0f, 0.0f};
  const TokenLogprobs result = token_logprobs(logits.data(), 2, 1, 0);
  EXPECT_NEAR(result.logprob, std::log(0.5), 1e-6);
  EXPECT_TRUE(result.top.empty());
}

}  // namespace
}  // namespace quarry
