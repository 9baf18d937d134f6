#include "generator/quant/dynamic_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/random_values.h"

namespace quarry {
namespace {

TEST(DynamicMap, SignedMapHasThePublishedValues) {
  const auto& values = signed_dynamic_map().values;
  EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
  EXPECT_FLOAT_EQ(values.front(), -0.992969F);
  EXPECT_FLOAT_EQ(values.back(), 1.0F);
  EXPECT_EQ(values[127], 0.0F);
  EXPECT_FLOAT_EQ(values[126], -5.5e-7F);
  EXPECT_FLOAT_EQ(values[128], 5.5e-7F);
}

TEST(DynamicMap, UnsignedMapHasThePublishedValues) {
  const auto& values = unsigned_dynamic_map().values;
  EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
  EXPECT_EQ(values[0], 0.0F);
  EXPECT_FLOAT_EQ(values[1], 3.25e-7F);
  EXPECT_FLOAT_EQ(values[254], 0.99648437F);
  EXPECT_FLOAT_EQ(values[255], 1.0F);
}

TEST(DynamicMap, NearestCodeIsThatOfAPlainSearch) {
  for (const DynamicMap* map : {&signed_dynamic_map(), &unsigned_dynamic_map()}) {
    for (int i = -1100; i <= 1100; ++i) {
      const float x = static_cast<float>(i) * 1e-3F;
      int best = 0;
      for (int code = 1; code < 256; ++code) {
        const auto at = [&](int c) { return std::fabs(map->values[static_cast<size_t>(c)] - x); };
        if (at(code) < at(best)) best = code;
      }
      ASSERT_EQ(int{nearest_code(*map, x)}, best) << x;
    }
    for (int code = 0; code < 256; ++code) {
      ASSERT_EQ(int{nearest_code(*map, map->values[static_cast<size_t>(code)])}, code);
    }
  }
}

TEST(DynamicMap, ATieGoesToTheLowerCode) {
  const DynamicMap& map = signed_dynamic_map();
  EXPECT_EQ(int{nearest_code(map, map.midpoints[200])}, 200);
  EXPECT_EQ(int{nearest_code(map, std::nextafter(map.midpoints[200], 2.0F))}, 201);
}

TEST(DynamicMap, BlockOfZerosAndOfOneValue) {
  std::vector<float> values(kDynamicMapBlock, 0.0F);
  std::vector<uint8_t> codes(kDynamicMapBlock, 9);
  EXPECT_EQ(quantize_dynamic_block(signed_dynamic_map(), values.data(), 3, codes.data()), 0.0F);
  EXPECT_EQ(int{codes[0]}, 127);
  EXPECT_EQ(int{codes[3]}, 9);  // beyond the block
  values[1] = -3e-41F;          // denormal
  EXPECT_EQ(quantize_dynamic_block(signed_dynamic_map(), values.data(), 3, codes.data()), 3e-41F);
  EXPECT_EQ(int{codes[1]}, 0);
  EXPECT_EQ(int{codes[2]}, 127);
}

// Mean absolute and mean relative error of many values, in blocks of 256.
std::pair<double, double> mean_errors(const DynamicMap& map, const std::vector<float>& values) {
  double absolute = 0;
  double relative = 0;
  std::vector<uint8_t> codes(kDynamicMapBlock);
  for (size_t begin = 0; begin < values.size(); begin += kDynamicMapBlock) {
    const float m = quantize_dynamic_block(map, &values[begin], kDynamicMapBlock, codes.data());
    for (size_t i = 0; i < codes.size(); ++i) {
      const double error = std::fabs(map.values[codes[i]] * m - values[begin + i]);
      absolute += error;
      relative += error / (std::fabs(values[begin + i]) + 1e-8);
    }
  }
  const auto n = static_cast<double>(values.size());
  return {absolute / n, relative / n};
}

TEST(DynamicMap, ErrorsAreWithinThoseOfBitsandbytes) {
  const std::vector<float> normal = test::RandomValues(1).normal(1 << 18, 0, 1);
  const auto [normal_abs, normal_rel] = mean_errors(signed_dynamic_map(), normal);
  EXPECT_LT(normal_abs, 0.011);
  EXPECT_GT(normal_abs, 0.006);
  EXPECT_LT(normal_rel, 0.018);
  test::RandomValues random(2);
  std::vector<float> uniform(1 << 18);
  for (float& value : uniform) value = static_cast<float>(random.uniform());
  const auto [unsigned_abs, unsigned_rel] = mean_errors(unsigned_dynamic_map(), uniform);
  EXPECT_LT(unsigned_abs, 0.0023);
  EXPECT_GT(unsigned_abs, 0.001);
  EXPECT_LT(unsigned_rel, 0.012);
}

}  // namespace
}  // namespace quarry
