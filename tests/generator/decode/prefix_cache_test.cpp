#include "generator/decode/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>

#include "generator/decode/random.h"

namespace quarry {
namespace {

constexpr int64_t kPageBytes = 2 * kKvPageTokens * 4;  // one layer, width 1

std::unique_ptr<KvCache> make_cache() {
  return std::make_unique<KvCache>(1, 1, 1, 100000, KvCache::ElementType::kFloat);
}

// Holds the tokens themselves as keys.
std::unique_ptr<KvCache> cache_of(const std::vector<int32_t>& tokens) {
  auto cache = make_cache();
  const std::vector<float> rows(tokens.begin(), tokens.end());
  const int64_t n = static_cast<int64_t>(tokens.size());
  cache->reserve(n);
  cache->write(0, rows.data(), rows.data(), n, 1);
  cache->advance(n);
  return cache;
}

std::vector<int32_t> held_by(const KvCache& cache) {
  const kernels::KeyValuePages<float> kv = cache.float_pages(0);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < cache.length(); ++i) {
    tokens.push_back(static_cast<int32_t>(kv.k_pages[i / kv.page_keys][i % kv.page_keys]));
  }
  return tokens;
}

void store(PrefixCache& prefixes, const std::vector<int32_t>& tokens,
           const PrefixCache::Adapter& adapter = nullptr) {
  prefixes.store(adapter, tokens.data(), static_cast<int64_t>(tokens.size()), *cache_of(tokens));
}

// Checks that what is found is a beginning of `tokens`, and returns its length.
int64_t found(PrefixCache& prefixes, const std::vector<int32_t>& tokens,
              const PrefixCache::Adapter& adapter = nullptr) {
  const auto cache = make_cache();
  const int64_t length =
      prefixes.fetch(adapter, tokens.data(), static_cast<int64_t>(tokens.size()), *cache);
  EXPECT_EQ(cache->length(), length);
  EXPECT_EQ(held_by(*cache), std::vector<int32_t>(tokens.begin(), tokens.begin() + length));
  return length;
}

std::vector<int32_t> counted(int64_t n, int32_t from = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

std::vector<int32_t> with_end(std::vector<int32_t> tokens, const std::vector<int32_t>& end) {
  tokens.insert(tokens.end(), end.begin(), end.end());
  return tokens;
}

TEST(PrefixCache, FindsTheLongestBeginningToTheToken) {
  PrefixCache prefixes(1 << 20);
  EXPECT_EQ(found(prefixes, counted(10)), 0);
  store(prefixes, counted(150));
  for (const int64_t n : {1, 63, 64, 65, 128, 149, 150, 151, 300}) {
    EXPECT_EQ(found(prefixes, counted(n)), std::min<int64_t>(n, 150)) << n;
    EXPECT_EQ(found(prefixes, with_end(counted(n), {-1, -2})), std::min<int64_t>(n, 150)) << n;
  }
  EXPECT_EQ(found(prefixes, counted(50, 1)), 0);
}

TEST(PrefixCache, KeepsSharedPagesOnce) {
  PrefixCache prefixes(1 << 20);
  store(prefixes, with_end(counted(128), counted(20, 1000)));
  EXPECT_EQ(prefixes.bytes(), 3 * kPageBytes);
  store(prefixes, with_end(counted(128), counted(20, 2000)));
  EXPECT_EQ(prefixes.bytes(), 4 * kPageBytes);
  store(prefixes, with_end(counted(128), counted(15, 1000)));  // a beginning of the first
  EXPECT_EQ(prefixes.bytes(), 4 * kPageBytes);
  store(prefixes, with_end(counted(128), counted(64, 1000)));  // takes the place of the first
  EXPECT_EQ(prefixes.bytes(), 4 * kPageBytes);
  EXPECT_EQ(found(prefixes, with_end(counted(128), counted(64, 1000))), 192);
  EXPECT_EQ(found(prefixes, with_end(counted(128), counted(64, 2000))), 148);
}

TEST(PrefixCache, AShorterMatchThanTheCacheHoldsChangesNothing) {
  PrefixCache prefixes(1 << 20);
  store(prefixes, counted(100));
  const auto cache = cache_of(counted(120));
  const auto before = cache->pages();
  EXPECT_EQ(prefixes.fetch(nullptr, counted(130).data(), 130, *cache), 120);
  EXPECT_EQ(cache->pages(), before);
}

TEST(PrefixCache, WhatWasNotUsedForLongestGoesFirstAndEndsBeforeBeginnings) {
  PrefixCache prefixes(6 * kPageBytes);
  store(prefixes, counted(192));        // 3 pages
  store(prefixes, counted(192, 1000));  // 3 pages
  EXPECT_EQ(prefixes.bytes(), 6 * kPageBytes);
  EXPECT_EQ(found(prefixes, counted(192)), 192);  // used now
  store(prefixes, counted(128, 2000));            // 2 pages more
  EXPECT_EQ(prefixes.bytes(), 6 * kPageBytes);
  EXPECT_EQ(found(prefixes, counted(192)), 192);
  EXPECT_EQ(found(prefixes, counted(192, 1000)), 64);
  EXPECT_EQ(found(prefixes, counted(128, 2000)), 128);
  store(prefixes, counted(640, 3000));  // more than there is room for
  EXPECT_EQ(prefixes.bytes(), 6 * kPageBytes);
  EXPECT_EQ(found(prefixes, counted(640, 3000)), 6 * kKvPageTokens);
}

TEST(PrefixCache, WithoutRoomNothingIsKept) {
  PrefixCache prefixes(0);
  store(prefixes, counted(100));
  EXPECT_EQ(prefixes.bytes(), 0);
  EXPECT_EQ(found(prefixes, counted(100)), 0);
}

// An adapter as an address; its weights are never looked at.
PrefixCache::Adapter make_adapter(const std::shared_ptr<int>& owner) {
  return PrefixCache::Adapter(owner, reinterpret_cast<const LoraAdapter*>(owner.get()));
}

TEST(PrefixCache, AdaptersAreApartAndForgottenWhenTheyAreGone) {
  PrefixCache prefixes(1 << 20);
  PrefixCache::Adapter one = make_adapter(std::make_shared<int>(1));
  const PrefixCache::Adapter two = make_adapter(std::make_shared<int>(2));
  store(prefixes, counted(64), one);
  EXPECT_EQ(found(prefixes, counted(64), one), 64);
  EXPECT_EQ(found(prefixes, counted(64), two), 0);
  EXPECT_EQ(found(prefixes, counted(64)), 0);
  store(prefixes, counted(64));
  one.reset();
  store(prefixes, counted(64, 100), two);
  EXPECT_EQ(prefixes.bytes(), 2 * kPageBytes);
  EXPECT_EQ(found(prefixes, counted(64)), 64);
}

// Against a plain list of everything that was stored.
TEST(PrefixCache, RandomSequencesAreFoundAsInAList) {
  PrefixCache prefixes(1 << 24);
  SplitMix64 random(7);
  std::vector<std::vector<int32_t>> stored;
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> tokens;
    if (!stored.empty()) {
      const std::vector<int32_t>& parent = stored[random.next() % stored.size()];
      tokens.assign(parent.begin(),
                    parent.begin() + static_cast<std::ptrdiff_t>(random.next() % parent.size()));
    }
    const size_t end = 1 + random.next() % 100;
    for (size_t i = 0; i < end; ++i) tokens.push_back(static_cast<int32_t>(random.next() % 3));
    int64_t expected = 0;
    for (const std::vector<int32_t>& other : stored) {
      const size_t most = std::min(other.size(), tokens.size());
      const auto last = tokens.begin() + static_cast<std::ptrdiff_t>(most);
      expected = std::max<int64_t>(
          expected, std::mismatch(tokens.begin(), last, other.begin()).first - tokens.begin());
    }
    ASSERT_EQ(found(prefixes, tokens), expected) << round;
    if (round % 3 != 0) {
      store(prefixes, tokens);
      stored.push_back(tokens);
      ASSERT_EQ(found(prefixes, tokens), static_cast<int64_t>(tokens.size()));
    }
  }
}

}  // namespace
}  // namespace quarry
