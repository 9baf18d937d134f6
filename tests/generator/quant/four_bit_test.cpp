#include "generator/quant/four_bit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "generator/quant/four_bit_twins.h"
#include "generator/quant/pytorch_sum.h"
#include "generator/weights/safetensors_file.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

class FourBitGolden : public ::testing::TestWithParam<WeightType> {
 protected:
  FourBitGolden()
      : golden_(SafetensorsFile::open(QUARRY_SOURCE_DIR
                                      "/tests/golden/bitsandbytes/golden.safetensors")) {}

  std::string type_name() const { return GetParam() == WeightType::kNF4 ? "nf4" : "fp4"; }
  const float* floats(const std::string& name) const {
    const TensorView& tensor = golden_->get(name);
    EXPECT_EQ(tensor.type, WeightType::kF32) << name;
    return reinterpret_cast<const float*>(tensor.data);
  }
  template <typename T>
  void expect_bytes(const std::string& name, const std::vector<T>& found) const {
    const TensorView& wanted = golden_->get(name);
    ASSERT_EQ(wanted.bytes, static_cast<int64_t>(found.size() * sizeof(T))) << name;
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(std::memcmp(&found[i], wanted.data + i * sizeof(T), sizeof(T)), 0)
          << name << " at " << i << ", found " << +found[i];
    }
  }
  FourBitCodes quantize(const float* values, int64_t count, int64_t block_size,
                        bool double_quant) const {
    FourBitOptions options;
    options.type = GetParam();
    options.block_size = block_size;
    options.double_quant = double_quant;
    return quantize_four_bit(values, count, options);
  }

  std::unique_ptr<SafetensorsFile> golden_;
};

INSTANTIATE_TEST_SUITE_P(Types, FourBitGolden,
                         ::testing::Values(WeightType::kNF4, WeightType::kFP4));

TEST_P(FourBitGolden, CodesAndAbsmaxAreThoseOfBitsandbytes) {
  int cases = 0;
  for (const TensorView& tensor : golden_->tensors()) {
    const std::string prefix = type_name() + ".";
    const size_t end = tensor.name.find(".codes");
    if (tensor.name.compare(0, prefix.size(), prefix) != 0 || end == std::string::npos) continue;
    const std::string name = tensor.name.substr(0, end);
    const size_t dot = name.rfind('.');
    const int64_t count = std::stoll(name.substr(dot + 1));
    const int64_t block_size = std::stoll(name.substr(prefix.size(), dot - prefix.size()));
    // The smallest cases are taken from where values are normal.
    const bool is_small = count == 1 || count == 63 || count == 65;
    const float* values = floats("values") + (is_small ? 700 : 0);
    const FourBitCodes found = quantize(values, count, block_size, false);
    expect_bytes(name + ".codes", found.codes);
    expect_bytes(name + ".absmax", found.state.absmax);
    ++cases;
  }
  EXPECT_EQ(cases, 12);
}

TEST_P(FourBitGolden, DoubleQuantizationIsThatOfBitsandbytes) {
  const TensorView& values = golden_->get("values.double");
  const FourBitCodes found = quantize(floats("values.double"), values.num_elements(), 64, true);
  ASSERT_TRUE(found.state.nested.has_value());
  const std::string name = "double." + type_name();
  const std::array<float, 256>& map = found.state.nested->map;
  expect_bytes(name + ".nested_quant_map", std::vector<float>(map.begin(), map.end()));
  expect_bytes(name + ".offset", std::vector<float>{found.state.nested->offset});
  expect_bytes(name + ".nested_absmax", found.state.nested->absmax);
  expect_bytes(name + ".absmax", found.state.nested->codes);
  expect_bytes(name + ".decoded", found.state.absmax);
}

TEST_P(FourBitGolden, DecodedValuesAreThoseOfBitsandbytes) {
  const int64_t count = golden_->get("values").num_elements();
  const FourBitCodes coded = quantize(floats("values"), count, 64, false);
  std::vector<float> decoded(static_cast<size_t>(count));
  // In two pieces, the second from an odd place on.
  dequantize_four_bit(GetParam(), coded.state, coded.codes.data(), 0, 101, decoded.data());
  dequantize_four_bit(GetParam(), coded.state, coded.codes.data(), 101, count,
                      decoded.data() + 101);
  const float* wanted = floats("decoded." + type_name());
  for (size_t i = 0; i < decoded.size(); ++i) ASSERT_EQ(decoded[i], wanted[i]) << i;
}

struct ErrorBounds {
  int64_t block_size;
  double mean;
  double deviation;
};

// Mean absolute error of N(0, 1), 1024 x 1024 values, as tests/test_functional.py of bitsandbytes
// has it; accepted within 7 deviations.
void expect_mean_error(const FourBitOptions& options, const ErrorBounds& bounds) {
  const std::vector<float> values = test::RandomValues(11).normal(1 << 20, 0, 1);
  const auto count = static_cast<int64_t>(values.size());
  const FourBitCodes coded = quantize_four_bit(values.data(), count, options);
  std::vector<float> decoded(values.size());
  dequantize_four_bit(options.type, coded.state, coded.codes.data(), 0, count, decoded.data());
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i) error += std::fabs(double{values[i]} - decoded[i]);
  EXPECT_NEAR(error / static_cast<double>(count), bounds.mean, 7 * bounds.deviation)
      << "block size " << options.block_size;
}

TEST(FourBit, MeanErrorsOfNF4AreThoseThatBitsandbytesAccepts) {
  const ErrorBounds table[] = {{32, .067746, .000069},  {64, .072798, .000074},
                               {128, .076831, .000091}, {256, .080337, .000102},
                               {512, .083547, .000143}, {1024, .086610, .000187},
                               {4096, .092547, .000360}};
  FourBitOptions options;
  options.double_quant = false;
  for (const ErrorBounds& bounds : table) {
    options.block_size = bounds.block_size;
    expect_mean_error(options, bounds);
  }
}

TEST(FourBit, DoubleQuantizationCostsAThousandth) {
  FourBitOptions options;
  expect_mean_error(options, {64, .072907, .000074});
  options.type = WeightType::kFP4;
  options.double_quant = false;
  expect_mean_error(options, {64, .096543, .000111});
}

TEST(FourBit, NothingIsQuantizedToNothing) {
  const FourBitCodes coded = quantize_four_bit(nullptr, 0, {});
  EXPECT_TRUE(coded.codes.empty());
  EXPECT_TRUE(coded.state.absmax.empty());
}

TEST(FourBit, ValuesThatAreNotFiniteAndOddBlockSizesAreRefused) {
  std::vector<float> values(100, 1.0f);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    values[77] = bad;
    EXPECT_THAT([&] { quantize_four_bit(values.data(), 100, {}); },
                ::testing::ThrowsMessage<Error>(::testing::HasSubstr("is not finite")));
  }
  FourBitOptions options;
  for (const int64_t size : {0, 16, 48, 8192}) {
    options.block_size = size;
    EXPECT_THAT([&] { quantize_four_bit(values.data(), 4, options); },
                ::testing::ThrowsMessage<Error>(::testing::HasSubstr("wanted a power of two")));
  }
}

TEST(PytorchSum, SmallSumsAreExact) {
  const std::vector<float> ones(1000, 1.0f);
  for (const int64_t count : {0, 1, 7, 8, 31, 32, 33, 511, 512, 1000}) {
    EXPECT_EQ(sum_as_pytorch(ones.data(), count), static_cast<float>(count));
  }
}

TEST(FourBitDecoding, Avx512EqualsPortableFromAnyPlace) {
  if (detect_cpu_isa() < CpuIsa::kAvx512) GTEST_SKIP() << "needs AVX-512";
  const std::vector<float> absmax = test::RandomValues(8).normal(20, 0, 1);
  std::vector<uint8_t> codes(320);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 29);
  for (const int64_t begin : {0, 1, 31, 62, 64}) {
    for (const int64_t end : {64, 65, 129, 640}) {
      const float* codebook = four_bit_codebook(WeightType::kNF4).data();
      std::vector<float> plain(static_cast<size_t>(end - begin)), fast(plain);
      portable::decode_four_bit(codebook, absmax.data(), 32, codes.data(), begin, end,
                                plain.data());
      avx512::decode_four_bit(codebook, absmax.data(), 32, codes.data(), begin, end, fast.data());
      EXPECT_EQ(plain, fast) << begin << " to " << end;
    }
  }
}

}  // namespace
}  // namespace quarry
