#include "generator/quant/encode_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "data/core/error.h"
#include "data/core/mapped_file.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

constexpr WeightType kTypes[] = {WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0,
                                 WeightType::kQ5_1, WeightType::kQ8_0};

TEST(EncodeBlocks, EqualsThePythonGgufPackageBitForBit) {
  const MappedFile golden(QUARRY_SOURCE_DIR "/tests/golden/encode_blocks/encode_blocks.bin");
  uint32_t count = 0;
  std::memcpy(&count, golden.data(), sizeof(count));
  std::vector<float> values(count);
  std::memcpy(values.data(), golden.data() + 4, 4 * values.size());
  const uint8_t* wanted = golden.data() + 4 + 4 * values.size();
  for (const WeightType type : kTypes) {
    const WeightTypeTraits& traits = weight_type_traits(type);
    std::vector<uint8_t> found(static_cast<size_t>(weight_bytes(type, count)));
    encode_blocks(type, values.data(), count, found.data());
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(int{found[i]}, int{wanted[i]})
          << traits.name << " block " << i / static_cast<size_t>(traits.bytes_per_block) << " byte "
          << i % static_cast<size_t>(traits.bytes_per_block);
    }
    wanted += found.size();
  }
  EXPECT_EQ(wanted, golden.data() + golden.size());
}

TEST(EncodeBlocks, ErrorsShrinkWithTheBits) {
  const std::vector<float> values = test::RandomValues(5).normal(1 << 16, 0, 1);
  const auto count = static_cast<int64_t>(values.size());
  const auto mean_error = [&](WeightType type) {
    std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, count)));
    encode_blocks(type, values.data(), count, bytes.data());
    std::vector<float> decoded(values.size());
    dequantize(type, bytes.data(), decoded.data(), count);
    double error = 0.0;
    for (size_t i = 0; i < values.size(); ++i) error += std::fabs(values[i] - decoded[i]);
    return error / static_cast<double>(count);
  };
  EXPECT_NEAR(mean_error(WeightType::kQ4_0), 0.072, 0.003);
  EXPECT_LT(mean_error(WeightType::kQ4_1), mean_error(WeightType::kQ4_0));
  EXPECT_LT(mean_error(WeightType::kQ5_0), 0.6 * mean_error(WeightType::kQ4_0));
  EXPECT_LT(mean_error(WeightType::kQ5_1), 0.6 * mean_error(WeightType::kQ4_1));
  EXPECT_LT(mean_error(WeightType::kQ8_0), 0.006);
}

TEST(EncodeBlocks, OtherTypesAreRefused) {
  EXPECT_FALSE(can_encode_blocks(WeightType::kQ6_K));
  EXPECT_THAT([] { encode_blocks(WeightType::kQ6_K, nullptr, 0, nullptr); },
              ::testing::ThrowsMessage<Error>(
                  ::testing::HasSubstr("cannot write blocks of Q6_K, wanted Q4_0")));
}

}  // namespace
}  // namespace quarry
