#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "data/core/mapped_file.h"
#include "generator/quant/blocks.h"
#include "generator/quant/half.h"
#include "generator/quant/weight_type.h"

namespace quarry {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

TEST(Dequantize, EqualsThePythonGgufPackageBitForBit) {
  const MappedFile golden(QUARRY_SOURCE_DIR "/tests/golden/dequantize/dequantize.bin");
  const WeightType types[] = {WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0,
                              WeightType::kQ4_1, WeightType::kQ5_0, WeightType::kQ5_1,
                              WeightType::kQ8_0, WeightType::kQ4_K, WeightType::kQ5_K,
                              WeightType::kQ6_K};
  const uint8_t* at = golden.data();
  for (const WeightType type : types) {
    SCOPED_TRACE(weight_type_traits(type).name);
    uint32_t header[2];
    std::memcpy(header, at, sizeof(header));
    at += sizeof(header);
    const int64_t count = header[0];
    ASSERT_EQ(weight_bytes(type, count), header[1]);
    // One byte off any alignment.
    std::vector<uint8_t> blocks(header[1] + 1);
    std::memcpy(blocks.data() + 1, at, header[1]);
    at += header[1];
    std::vector<float> actual(static_cast<size_t>(count));
    dequantize(type, blocks.data() + 1, actual.data(), count);
    for (int64_t i = 0; i < count; ++i) {
      float expected;
      std::memcpy(&expected, at + 4 * i, sizeof(expected));
      ASSERT_EQ(bits_of(actual[static_cast<size_t>(i)]), bits_of(expected)) << "element " << i;
    }
    at += 4 * count;
  }
  EXPECT_EQ(at, golden.data() + golden.size());
}

TEST(Dequantize, IntegersAndFloatsAreConverted) {
  const int8_t bytes[] = {-128, 0, 127};
  const int32_t words[] = {-7, 0, 1 << 24};
  const int64_t longs[] = {-1, 5, int64_t{1} << 40};
  const float floats[] = {-0.0f, 1.5f, std::numeric_limits<float>::infinity()};
  float out[3];
  dequantize(WeightType::kI8, bytes, out, 3);
  EXPECT_EQ(out[0], -128.0f);
  EXPECT_EQ(out[2], 127.0f);
  dequantize(WeightType::kI32, words, out, 3);
  EXPECT_EQ(out[0], -7.0f);
  EXPECT_EQ(out[2], 16777216.0f);
  dequantize(WeightType::kI64, longs, out, 3);
  EXPECT_EQ(out[0], -1.0f);
  EXPECT_EQ(out[2], 1099511627776.0f);
  dequantize(WeightType::kF32, floats, out, 3);
  EXPECT_EQ(std::memcmp(out, floats, sizeof(out)), 0);
}

TEST(Dequantize, ZeroElementsTouchNothing) {
  dequantize(WeightType::kF32, nullptr, nullptr, 0);
  dequantize(WeightType::kQ4_K, nullptr, nullptr, 0);
}

TEST(Half, EveryFiniteValueIsExactAndRoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 31);
    const int mantissa = static_cast<int>(bits & 1023);
    const float value = quant::half_to_float(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0);
      EXPECT_EQ(std::isinf(value), mantissa == 0);
      continue;
    }
    double expected =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if ((bits & 0x8000) != 0) expected = -expected;
    ASSERT_EQ(bits_of(value), bits_of(static_cast<float>(expected))) << bits;
    ASSERT_EQ(quant::float_to_half(value), bits);
  }
}

TEST(Half, RoundsToNearestEvenAndOverflowsToInfinity) {
  EXPECT_EQ(quant::float_to_half(1.0f + 0x1p-11f), 0x3c00);      // tie, even below
  EXPECT_EQ(quant::float_to_half(1.0f + 3 * 0x1p-11f), 0x3c02);  // tie, even above
  EXPECT_EQ(quant::float_to_half(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);
  EXPECT_EQ(quant::float_to_half(65519.0f), 0x7bff);
  EXPECT_EQ(quant::float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(quant::float_to_half(-1e30f), 0xfc00);
  EXPECT_EQ(quant::float_to_half(0x1p-25f), 0);  // tie with zero
  EXPECT_EQ(quant::float_to_half(0x1.8p-25f), 1);
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(quant::float_to_bfloat16(1.0f), 0x3f80);
  EXPECT_EQ(quant::float_to_bfloat16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(quant::float_to_bfloat16(1.0f + 3 * 0x1p-8f), 0x3f82);
  EXPECT_TRUE(std::isnan(
      quant::bfloat16_to_float(quant::float_to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(WeightType, TraitsGiveTheFormatsOwnSizes) {
  EXPECT_STREQ(weight_type_traits(WeightType::kQ4_1).name, "Q4_1");
  EXPECT_EQ(weight_bytes(WeightType::kQ4_1, 576), 576 / 32 * 20);
  EXPECT_EQ(weight_bytes(WeightType::kQ6_K, 512), 420);
  EXPECT_EQ(weight_bytes(WeightType::kBF16, 3), 6);
}

}  // namespace
}  // namespace quarry
