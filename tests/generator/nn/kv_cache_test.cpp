#include "generator/nn/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"
#include "generator/quant/half.h"

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

template <typename T>
T key_at(const kernels::KeyValuePages<T>& kv, int64_t token, int64_t i) {
  return kv.k_pages[token / kv.page_keys][kv.k_offset + token % kv.page_keys * kWidth + i];
}

template <typename T>
T value_at(const kernels::KeyValuePages<T>& kv, int64_t token, int64_t i) {
  return kv.v_pages[token / kv.page_keys][kv.v_offset + token % kv.page_keys * kWidth + i];
}

TEST(KvCache, KeepsRowsWhileItGrows) {
  KvCache cache(2, 1, kWidth, 1000, KvCache::ElementType::kFloat);
  EXPECT_EQ(cache.bytes(), 0);
  for (int64_t step : {1, 255, 1, 300, 43}) append(cache, 2, step);
  EXPECT_EQ(cache.length(), 600);
  EXPECT_EQ(cache.bytes(), 2 * 2 * 640 * kWidth * 4);
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t t = 0; t < 600; ++t) {
      ASSERT_EQ(key_at(cache.float_pages(layer), t, 5), static_cast<float>(t));
      ASSERT_EQ(value_at(cache.float_pages(layer), t, 0), -static_cast<float>(t));
    }
  }
}

TEST(KvCache, HalfElementsAreIeeeHalves) {
  KvCache cache(1, 1, kWidth, 8, KvCache::ElementType::kHalf);
  append(cache, 1, 3);
  EXPECT_EQ(key_at(cache.half_pages(0), 0, 0), 0x0000);
  EXPECT_EQ(key_at(cache.half_pages(0), 2, 0), 0x4000);    // 2.0
  EXPECT_EQ(value_at(cache.half_pages(0), 1, 0), 0xbc00);  // -1.0
  EXPECT_EQ(cache.bytes(), 2 * kKvPageTokens * kWidth * 2);
}

// Tiles are of padded heads, and values of two tokens share a pair.
TEST(KvCache, BFloat16ElementsLieInTiles) {
  constexpr int64_t kPadded = 16;
  KvCache cache(2, 2, kWidth / 2, 200, KvCache::ElementType::kBFloat16);
  append(cache, 2, 67);
  cache.truncate(65);
  append(cache, 2, 2);
  EXPECT_EQ(cache.bytes(), 2 * 2 * 2 * kKvPageTokens * 2 * kPadded * 2);
  const kernels::KeyValueTiles tiles = cache.tiles(1);
  for (int64_t token = 0; token < 67; ++token) {
    const uint16_t* k = tiles.k_pages[token / 64] + tiles.k_offset;
    const uint16_t* v = tiles.v_pages[token / 64] + tiles.v_offset;
    const int64_t key = token % 64;
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t d = 0; d < kPadded; ++d) {
        const float expected = d < kWidth / 2 ? static_cast<float>(token) : 0.0f;
        const int64_t of_head = head * 64 * kPadded;
        ASSERT_EQ(quant::bfloat16_to_float(k[of_head + d / 2 * 128 + key * 2 + d % 2]), expected);
        ASSERT_EQ(quant::bfloat16_to_float(v[of_head + (key / 2 * kPadded + d) * 2 + key % 2]),
                  -expected);
      }
    }
  }
}

TEST(KvCache, TruncateReusesTheMemory) {
  KvCache cache(1, 1, kWidth, 300, KvCache::ElementType::kFloat);
  append(cache, 1, 200);
  const int64_t bytes = cache.bytes();
  cache.truncate(50);
  EXPECT_EQ(cache.length(), 50);
  append(cache, 1, 100);
  EXPECT_EQ(cache.bytes(), bytes);
  EXPECT_EQ(key_at(cache.float_pages(0), 149, 0), 149.0f);
}

TEST(KvCache, ASharedPageIsCopiedBeforeItIsWritten) {
  KvCache first(2, 1, kWidth, 1000, KvCache::ElementType::kFloat);
  append(first, 2, 100);
  KvCache second(2, 1, kWidth, 1000, KvCache::ElementType::kFloat);
  second.share(first.pages(), 90);
  EXPECT_EQ(second.length(), 90);
  std::vector<float> row(kWidth, 7.0f);
  second.reserve(1);
  for (int64_t layer = 0; layer < 2; ++layer) second.write(layer, row.data(), row.data(), 1, 0);
  second.advance(1);
  EXPECT_EQ(second.pages()[0], first.pages()[0]);
  EXPECT_NE(second.pages()[1], first.pages()[1]);
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t t = 0; t < 100; ++t) {
      ASSERT_EQ(key_at(first.float_pages(layer), t, 1), static_cast<float>(t));
      if (t >= 90) continue;
      ASSERT_EQ(key_at(second.float_pages(layer), t, 1), static_cast<float>(t));
      ASSERT_EQ(value_at(second.float_pages(layer), t, 1), -static_cast<float>(t));
    }
    EXPECT_EQ(key_at(second.float_pages(layer), 90, 5), 7.0f);
    EXPECT_EQ(value_at(second.float_pages(layer), 90, 5), 7.0f);
  }
}

TEST(KvCache, RowsPastTheEndOfASharedCacheAreCopiedToo) {
  KvCache first(1, 1, kWidth, 1000, KvCache::ElementType::kFloat);
  append(first, 1, 200);
  KvCache second(1, 1, kWidth, 1000, KvCache::ElementType::kFloat);
  second.share(first.pages(), 10);
  std::vector<float> rows(190 * kWidth, 7.0f);
  second.reserve(190);
  second.write(0, rows.data(), rows.data(), 190, kWidth);
  second.advance(190);
  for (int64_t t = 0; t < 200; ++t) {
    ASSERT_EQ(key_at(first.float_pages(0), t, 0), static_cast<float>(t));
    ASSERT_EQ(key_at(second.float_pages(0), t, 0), t < 10 ? static_cast<float>(t) : 7.0f);
  }
}

TEST(KvCache, PastTheContextThrowsAndChangesNothing) {
  KvCache cache(1, 1, kWidth, 10, KvCache::ElementType::kFloat);
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
