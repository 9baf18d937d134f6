#include "generator/kernels/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/key_value_tiles.h"
#include "generator/quant/half.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

AttentionShape make_shape(int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads,
                          int64_t head_dim) {
  AttentionShape shape;
  shape.num_queries = queries;
  shape.num_keys = keys;
  shape.num_heads = heads;
  shape.num_kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.ldq = heads * head_dim;
  shape.ldk = kv_heads * head_dim;
  shape.ldo = heads * head_dim;
  shape.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  return shape;
}

std::vector<double> attend_in_double(const AttentionShape& s, const std::vector<float>& q,
                                     const std::vector<float>& k, const std::vector<float>& v) {
  std::vector<double> out;
  for (int64_t t = 0; t < s.num_queries; ++t) {
    const int64_t end = s.causal ? s.num_keys - s.num_queries + t + 1 : s.num_keys;
    const int64_t begin = s.causal && s.window > 0 ? std::max<int64_t>(0, end - s.window) : 0;
    for (int64_t h = 0; h < s.num_heads; ++h) {
      const int64_t kv = h / (s.num_heads / s.num_kv_heads) * s.head_dim;
      std::vector<double> p;
      double largest = -1e300;
      for (int64_t key = begin; key < end; ++key) {
        double score = 0.0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          score += double{q[t * s.ldq + h * s.head_dim + d]} * k[key * s.ldk + kv + d];
        }
        const double distance = static_cast<double>(s.num_keys - s.num_queries + t - key);
        const double slope = s.alibi_slopes == nullptr ? 0.0 : double{s.alibi_slopes[h]};
        p.push_back(score * s.scale - slope * distance);
        const auto reach = static_cast<double>(s.relative_bias.reach);
        if (s.relative_bias.table != nullptr) {
          const double place = std::min(std::max(-distance, -reach), reach) + reach;
          p.back() += double{s.relative_bias.table[static_cast<size_t>(
              static_cast<double>(h) * (2.0 * reach + 1.0) + place)]};
        }
        largest = std::max(largest, p.back());
      }
      double total = 0.0;
      for (double& value : p) total += value = std::exp(value - largest);
      for (int64_t d = 0; d < s.head_dim; ++d) {
        double sum = 0.0;
        for (int64_t key = begin; key < end; ++key) sum += p[key - begin] * v[key * s.ldk + kv + d];
        out.push_back(sum / total);
      }
    }
  }
  return out;
}

std::vector<uint16_t> to_half(const std::vector<float>& x) {
  std::vector<uint16_t> out;
  for (const float value : x) out.push_back(quant::float_to_half(value));
  return out;
}

std::vector<float> from_half(const std::vector<uint16_t>& x) {
  std::vector<float> out;
  for (const uint16_t value : x) out.push_back(quant::half_to_float(value));
  return out;
}

std::vector<float> rounded(std::vector<float> x) {
  for (float& value : x) value = quant::bfloat16_to_float(quant::float_to_bfloat16(value));
  return x;
}

// Rows of keys and values in tiles; what no row fills is NaN.
class Tiles {
 public:
  Tiles(const AttentionShape& shape, const std::vector<float>& k, const std::vector<float>& v) {
    const int64_t part = 64 * shape.num_kv_heads * padded_head_dim(shape.head_dim);
    for (int64_t key = 0; key < shape.num_keys; ++key) {
      if (key % 64 == 0) tiles_.emplace_back(static_cast<size_t>(6 + 2 * part), uint16_t{0x7fc0});
      uint16_t* tile = tiles_.back().data() + 6;
      store_keys(k.data() + key * shape.ldk, shape.ldk, 1, shape.num_kv_heads, shape.head_dim,
                 key % 64, tile);
      store_values(v.data() + key * shape.ldk, shape.ldk, 1, shape.num_kv_heads, shape.head_dim,
                   key % 64, tile + part);
    }
    for (const auto& tile : tiles_) starts_.push_back(tile.data());
    view_ = {starts_.data(), starts_.data(), 6, 6 + part};
  }
  const KeyValueTiles& view() const { return view_; }

 private:
  std::vector<std::vector<uint16_t>> tiles_;
  std::vector<const uint16_t*> starts_;
  KeyValueTiles view_;
};

class Attention : public testing::TestWithParam<CpuIsa> {
 protected:
  Attention() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, Attention, testing::ValuesIn(runnable_isas()), isa_name);

// Against double with the queries rounded likewise, and against the plain twin: there only a few
// probabilities fall to the other side.
void expect_bfloat16_parity(AttentionShape shape, uint32_t seed) {
  const auto q = random_floats(shape.num_queries * shape.ldq, seed, 1.5f);
  const auto k = random_floats(shape.num_keys * shape.ldk, seed + 1, 1.5f);
  const auto v = random_floats(shape.num_keys * shape.ldk, seed + 2);
  const Tiles tiles(shape, k, v);
  std::vector<float> out(static_cast<size_t>(shape.num_queries * shape.ldo), -77.0f);
  std::vector<float> plain(out.size(), -77.0f);
  attention(shape, q.data(), tiles.view(), out.data());
  {
    const ScopedIsa portable(CpuIsa::kPortable);
    attention(shape, q.data(), tiles.view(), plain.data());
  }
  std::vector<float> scaled = q;
  for (float& value : scaled) value *= shape.scale;
  shape.scale = 1.0f;
  const std::vector<double> expected =
      attend_in_double(shape, rounded(scaled), rounded(k), rounded(v));
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_NEAR(out[i], expected[i], 6e-3)
        << "T " << shape.num_queries << " S " << shape.num_keys << " H " << shape.num_heads << " D "
        << shape.head_dim << " window " << shape.window << " i " << i;
    ASSERT_NEAR(out[i], plain[i], 2e-3) << i;
  }
}

void expect_parity(const AttentionShape& shape, uint32_t seed) {
  expect_bfloat16_parity(shape, seed);
  const auto q = random_floats(shape.num_queries * shape.ldq, seed, 1.5f);
  const auto k_half = to_half(random_floats(shape.num_keys * shape.ldk, seed + 1, 1.5f));
  const auto v_half = to_half(random_floats(shape.num_keys * shape.ldk, seed + 2));
  const auto k = from_half(k_half);
  const auto v = from_half(v_half);
  const std::vector<double> expected = attend_in_double(shape, q, k, v);
  std::vector<float> out(expected.size(), -77.0f);
  attention(shape, q.data(), k.data(), v.data(), out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_NEAR(out[i], expected[i], 5e-6)
        << "T " << shape.num_queries << " S " << shape.num_keys << " H " << shape.num_heads << " D "
        << shape.head_dim << " window " << shape.window << " i " << i;
  }
  std::vector<float> from_halves(expected.size(), -77.0f);
  attention(shape, q.data(), k_half.data(), v_half.data(), from_halves.data());
  ASSERT_EQ(out, from_halves);  // the same numbers in another type
}

TEST_P(Attention, MatchesDoubleAtOddSizes) {
  for (const int64_t head_dim : {1, 8, 15, 32, 64, 67, 256}) {
    for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{3, 1}, {4, 4}, {6, 2}}) {
      for (const auto& [queries, keys] :
           {std::pair<int64_t, int64_t>{1, 1}, {1, 63}, {1, 130}, {5, 5}, {37, 66}}) {
        AttentionShape shape = make_shape(queries, keys, heads, kv_heads, head_dim);
        expect_parity(shape, static_cast<uint32_t>(head_dim + keys));
        shape.causal = false;
        expect_parity(shape, static_cast<uint32_t>(head_dim + keys));
      }
    }
  }
}

TEST_P(Attention, MatchesDoubleWithAWindow) {
  for (const int64_t window : {1, 3, 64, 65, 100}) {
    for (const int64_t queries : {1, 9, 150}) {
      AttentionShape shape = make_shape(queries, 200, 4, 2, 16);
      shape.window = window;
      expect_parity(shape, static_cast<uint32_t>(window));
    }
  }
}

TEST_P(Attention, MatchesDoubleWithBiasesByDistance) {
  for (const int64_t reach : {1, 5, 70, 300}) {
    const auto table = random_floats(4 * (2 * reach + 1), static_cast<uint32_t>(reach), 2.0f);
    for (const auto& [queries, keys] :
         {std::pair<int64_t, int64_t>{1, 1}, {1, 130}, {9, 9}, {67, 67}, {67, 200}}) {
      AttentionShape shape = make_shape(queries, keys, 4, 2, 16);
      shape.relative_bias = {table.data(), reach};
      expect_parity(shape, static_cast<uint32_t>(keys));
      shape.causal = false;
      expect_parity(shape, static_cast<uint32_t>(keys));
    }
  }
}

// Of a source and a text beside it.
TEST_P(Attention, MatchesDoubleWithFewerKeysThanQueries) {
  for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{5, 1}, {9, 3}, {130, 67}}) {
    AttentionShape shape = make_shape(queries, keys, 4, 4, 16);
    shape.causal = false;
    expect_parity(shape, static_cast<uint32_t>(queries));
  }
}

TEST_P(Attention, PagesEqualRowsInOnePiece) {
  constexpr int64_t kPageKeys = 64;
  for (const int64_t keys : {1, 63, 64, 65, 203}) {
    const AttentionShape shape = make_shape(std::min<int64_t>(keys, 3), keys, 6, 2, 64);
    const auto q = random_floats(shape.num_queries * shape.ldq, 1);
    const auto k = to_half(random_floats(keys * shape.ldk, 2));
    const auto v = to_half(random_floats(keys * shape.ldk, 3));
    std::vector<float> expected(q.size());
    attention(shape, q.data(), k.data(), v.data(), expected.data());
    // A page holds something else, then its keys, then its values.
    std::vector<std::vector<uint16_t>> pages;
    std::vector<const uint16_t*> starts;
    for (int64_t begin = 0; begin < keys; begin += kPageKeys) {
      const int64_t end = std::min(begin + kPageKeys, keys);
      std::vector<uint16_t> page(static_cast<size_t>(5 + 2 * kPageKeys * shape.ldk), 0x7e00);
      std::copy(k.begin() + begin * shape.ldk, k.begin() + end * shape.ldk, page.begin() + 5);
      std::copy(v.begin() + begin * shape.ldk, v.begin() + end * shape.ldk,
                page.begin() + 5 + kPageKeys * shape.ldk);
      pages.push_back(std::move(page));
    }
    for (const auto& page : pages) starts.push_back(page.data());
    KeyValuePages<uint16_t> kv;
    kv.k_pages = kv.v_pages = starts.data();
    kv.page_keys = kPageKeys;
    kv.k_offset = 5;
    kv.v_offset = 5 + kPageKeys * shape.ldk;
    std::vector<float> out(q.size());
    attention(shape, q.data(), kv, out.data());
    ASSERT_EQ(out, expected) << keys;
  }
}

TEST_P(Attention, MatchesDoubleWithLinearBiases) {
  const std::vector<float> slopes = {0.5f, 0.25f, 0.01f, 1.0f};
  for (const int64_t queries : {1, 9, 150}) {
    AttentionShape shape = make_shape(queries, 200, 4, 2, 16);
    shape.alibi_slopes = slopes.data();
    expect_parity(shape, static_cast<uint32_t>(queries));
    shape.window = 70;
    expect_parity(shape, static_cast<uint32_t>(queries));
  }
}

// `attend(shape, q, out)`; `whole` has as many queries as keys.
template <typename Attend>
void expect_chunks_equal_the_whole(const AttentionShape& whole, const Attend& attend) {
  const auto q = random_floats(whole.num_keys * whole.ldq, 1);
  std::vector<float> expected(q.size());
  attend(whole, q.data(), expected.data());
  for (const int64_t chunk : {1, 7, 64, 100}) {
    std::vector<float> out(q.size());
    for (int64_t begin = 0; begin < whole.num_keys; begin += chunk) {
      AttentionShape part = whole;
      part.num_queries = std::min(chunk, whole.num_keys - begin);
      part.num_keys = begin + part.num_queries;
      attend(part, q.data() + begin * whole.ldq, out.data() + begin * whole.ldo);
    }
    ASSERT_EQ(out, expected) << "chunk " << chunk << " window " << whole.window;
  }
}

// Of one segment of keys, and of three.
TEST_P(Attention, ChunksEqualTheWholeBitForBit) {
  const std::vector<float> slopes = {0.5f, 0.25f, 0.01f, 1.0f, 0.1f, 0.2f};
  for (const auto& [keys, window] : {std::pair<int64_t, int64_t>{203, 0}, {203, 70}, {1100, 600}}) {
    AttentionShape whole = make_shape(keys, keys, 6, 2, keys > 1000 ? 16 : 64);
    whole.window = window;
    if (window > 0) whole.alibi_slopes = slopes.data();
    const auto k = to_half(random_floats(keys * whole.ldk, 2));
    const auto v = to_half(random_floats(keys * whole.ldk, 3));
    expect_chunks_equal_the_whole(whole, [&](const AttentionShape& s, const float* q, float* out) {
      attention(s, q, k.data(), v.data(), out);
    });
  }
}

TEST_P(Attention, ChunksOverTilesEqualTheWholeBitForBit) {
  for (const int64_t keys : {203, 1100}) {
    const AttentionShape whole = make_shape(keys, keys, 6, 2, keys > 1000 ? 16 : 64);
    const Tiles tiles(whole, random_floats(keys * whole.ldk, 2),
                      random_floats(keys * whole.ldk, 3));
    expect_chunks_equal_the_whole(whole, [&](const AttentionShape& s, const float* q, float* out) {
      attention(s, q, tiles.view(), out);
    });
  }
}

void expect_threads_change_nothing(const AttentionShape& shape) {
  const auto q = random_floats(shape.num_queries * shape.ldq, 1);
  const auto k = random_floats(shape.num_keys * shape.ldk, 2);
  const auto v = random_floats(shape.num_keys * shape.ldk, 3);
  const int threads = num_threads();
  std::vector<std::vector<float>> results;
  for (const int count : {1, 2, 5}) {
    set_num_threads(count);
    results.emplace_back(q.size());
    attention(shape, q.data(), k.data(), v.data(), results.back().data());
  }
  set_num_threads(threads);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// Threads share out tiles of queries, heads of a group, or segments of keys.
TEST_P(Attention, ThreadsDoNotChangeTheResult) {
  expect_threads_change_nothing(make_shape(90, 300, 8, 1, 64));
  expect_threads_change_nothing(make_shape(1, 400, 8, 1, 64));
  AttentionShape many_keys = make_shape(3, 2500, 9, 3, 64);
  expect_threads_change_nothing(many_keys);
  many_keys.window = 700;
  expect_threads_change_nothing(many_keys);
}

TEST_P(Attention, MatchesDoubleOverSegmentsOfKeys) {
  for (const auto& [queries, keys] :
       {std::pair<int64_t, int64_t>{1, 512}, {1, 513}, {2, 1500}, {100, 1300}}) {
    AttentionShape shape = make_shape(queries, keys, 4, 2, 16);
    expect_parity(shape, static_cast<uint32_t>(keys));
    shape.window = 550;
    expect_parity(shape, static_cast<uint32_t>(keys));
  }
}

TEST_P(Attention, StridesAreKept) {
  AttentionShape shape = make_shape(5, 9, 4, 2, 8);
  shape.ldq += 7;
  shape.ldk += 5;
  shape.ldo += 3;
  const auto q = random_floats(shape.num_queries * shape.ldq, 1);
  const auto k = random_floats(shape.num_keys * shape.ldk, 2);
  const auto v = random_floats(shape.num_keys * shape.ldk, 3);
  const std::vector<double> expected = attend_in_double(shape, q, k, v);
  std::vector<float> out(static_cast<size_t>(shape.num_queries * shape.ldo), -77.0f);
  attention(shape, q.data(), k.data(), v.data(), out.data());
  for (int64_t t = 0; t < shape.num_queries; ++t) {
    for (int64_t i = 0; i < shape.ldo; ++i) {
      if (i < 32) {
        ASSERT_NEAR(out[t * shape.ldo + i], expected[t * 32 + i], 2e-6);
      } else {
        ASSERT_EQ(out[t * shape.ldo + i], -77.0f);
      }
    }
  }
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  AttentionShape shape = make_shape(1, 80, 1, 1, 16);
  shape.scale = 100.0f;
  std::vector<float> q(16, 3.0f);
  std::vector<float> k(80 * 16, -3.0f);
  for (int i = 0; i < 16; ++i) k[70 * 16 + i] = 3.0f;
  const auto v = random_floats(80 * 16, 3);
  std::vector<float> out(16);
  attention(shape, q.data(), k.data(), v.data(), out.data());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], v[70 * 16 + i]);
}

TEST(AttentionShapeCheck, BadShapesThrow) {
  float x[8] = {};
  EXPECT_THAT([&] { attention(make_shape(2, 1, 1, 1, 4), x, x, x, x); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("2 queries, 1 keys")));
  EXPECT_THAT([&] { attention(make_shape(1, 1, 3, 2, 1), x, x, x, x); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("3 heads, 2 kv heads")));
}

}  // namespace
}  // namespace quarry::kernels
