#include "generator/nn/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kWidth = 6;

// Appends rows whose every element is the token's number.
void append(KvCache& cache, int64_t num_layers, int64_t num_tokens) {
  std::vector<float> rows(static_cast<size_t>(num_tokens * 2 * kWidth));
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t i = 0; i < kWidth; ++i) {
      rows[static_cast<size_t>(t * 2 * kWidth + i)] = static_cast<float>(cache.length() + t);
      rows[static_cast<size_t>(t * 2 * kWidth + kWidth + i)] =
          -static_cast<float>(cache.length() + t);
    }
  }
  cache.reserve(num_tokens);
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    cache.write(layer, rows.data(), rows.data() + kWidth, num_tokens, 2 * kWidth);
  }
  cache.advance(num_tokens);
}

TEST(KvCache, KeepsRowsWhileItGrows) {
  KvCache cache(2, kWidth, 1000, KvCache::ElementType::kFloat);
  EXPECT_EQ(cache.bytes(), 0);
  for (int64_t step : {1, 255, 1, 300, 43}) append(cache, 2, step);
  EXPECT_EQ(cache.length(), 600);
  EXPECT_LE(cache.bytes(), 2 * 2 * 1000 * kWidth * 4);
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t t = 0; t < 600; ++t) {
      ASSERT_EQ(cache.float_keys(layer)[t * kWidth + 5], static_cast<float>(t));
      ASSERT_EQ(cache.float_values(layer)[t * kWidth], -static_cast<float>(t));
    }
  }
}

TEST(KvCache, HalfElementsAreIeeeHalves) {
  KvCache cache(1, kWidth, 8, KvCache::ElementType::kHalf);
  append(cache, 1, 3);
  EXPECT_EQ(cache.half_keys(0)[0], 0x0000);
  EXPECT_EQ(cache.half_keys(0)[2 * kWidth], 0x4000);    // 2.0
  EXPECT_EQ(cache.half_values(0)[1 * kWidth], 0xbc00);  // -1.0
  EXPECT_EQ(cache.bytes(), 2 * 8 * kWidth * 2);
}

TEST(KvCache, TruncateReusesTheMemory) {
  KvCache cache(1, kWidth, 300, KvCache::ElementType::kFloat);
  append(cache, 1, 200);
  const int64_t bytes = cache.bytes();
  cache.truncate(50);
  EXPECT_EQ(cache.length(), 50);
  append(cache, 1, 100);
  EXPECT_EQ(cache.bytes(), bytes);
  EXPECT_EQ(cache.float_keys(0)[149 * kWidth], 149.0f);
}

TEST(KvCache, PastTheContextThrowsAndChangesNothing) {
  KvCache cache(1, kWidth, 10, KvCache::ElementType::kFloat);
  append(cache, 1, 8);
  try {
    cache.reserve(3);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("sequence of 11 tokens: the model's context holds 10"));
  }
  EXPECT_EQ(cache.length(), 8);
  append(cache, 1, 2);
  EXPECT_EQ(cache.length(), 10);
}

}  // namespace
}  // namespace quarry
