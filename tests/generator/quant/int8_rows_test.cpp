#include "generator/quant/int8_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "generator/quant/int8_rows_twins.h"
#include "generator/weights/safetensors_file.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

const float* floats(const TensorView& tensor) {
  return reinterpret_cast<const float*>(tensor.data);
}

TEST(Int8Rows, CodesAndProductAreThoseOfBitsandbytes) {
  const auto golden =
      SafetensorsFile::open(QUARRY_SOURCE_DIR "/tests/golden/bitsandbytes/golden.safetensors");
  const TensorView& weight = golden->get("int8.weight");
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  const Int8Rows rows = quantize_int8_rows(floats(weight), n, k);
  EXPECT_EQ(std::memcmp(rows.codes.data(), golden->get("int8.codes").data, rows.codes.size()), 0);
  const TensorView& absmax = golden->get("int8.absmax");
  ASSERT_EQ(absmax.num_elements(), n);
  EXPECT_EQ(std::memcmp(rows.state.absmax.data(), absmax.data, static_cast<size_t>(4 * n)), 0);

  const TensorView& x = golden->get("int8.x");
  const int64_t m = x.shape[0];
  std::vector<float> y(static_cast<size_t>(m * n));
  multiply_int8_rows(rows.state, rows.codes.data(), n, k, floats(x), m, {}, y.data(), n);
  const float* wanted = floats(golden->get("int8.y"));
  // bitsandbytes multiplies by 6.200124e-05 where 1 / 127^2 is 6.2000124e-05.
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(y[i], wanted[i], 4e-5f * std::fabs(wanted[i]) + 1e-5f) << i;
  }
}

TEST(Int8Rows, OutlierColumnsKeepFullPrecision) {
  const int64_t k = 64;
  const std::vector<float> weight = test::RandomValues(3).normal(k, 0, 0.05);
  const Int8Rows rows = quantize_int8_rows(weight.data(), 1, k);
  std::vector<float> decoded(static_cast<size_t>(k));
  dequantize_int8_row(rows.state, rows.codes.data(), 0, k, decoded.data());
  std::vector<float> x(static_cast<size_t>(k), 0.0f);
  x[17] = 61.7f;
  float y = 0.0f;
  multiply_int8_rows(rows.state, rows.codes.data(), 1, k, x.data(), 1, {}, &y, 1);
  EXPECT_EQ(y, 61.7f * decoded[17]);
  // Without a threshold its 8-bit rounding of the row is exact as well: it is the row's absmax.
  x[18] = 0.3f;
  Int8ProductOptions options;
  options.outlier_threshold = 0.0f;
  multiply_int8_rows(rows.state, rows.codes.data(), 1, k, x.data(), 1, options, &y, 1);
  EXPECT_NEAR(y, 61.7f * decoded[17] + 0.3f * decoded[18], 61.7f / 254 * std::fabs(decoded[18]));
}

TEST(Int8Rows, Avx512EqualsPortableBitForBit) {
  if (detect_cpu_isa() < CpuIsa::kAvx512) GTEST_SKIP() << "needs AVX-512";
  for (const int64_t k : {1, 15, 16, 67, 200}) {
    for (const int64_t m : {1, 3, 9}) {
      const std::vector<float> x = test::RandomValues(6).normal(m * k, 0, 4);
      const std::vector<float> w = test::RandomValues(7).normal(7 * k, 0, 60);
      const std::vector<int8_t> weights(w.begin(), w.end());
      const auto size = static_cast<size_t>(m * k);
      for (const float threshold : {0.0f, 6.0f, 0.001f}) {
        std::vector<uint8_t> plain_flags(static_cast<size_t>(k)), fast_flags(plain_flags);
        portable::mark_outliers(x.data(), m, k, 0, k, threshold, plain_flags.data());
        avx512::mark_outliers(x.data(), m, k, 0, k, threshold, fast_flags.data());
        EXPECT_EQ(plain_flags, fast_flags) << m << " x " << k << ", threshold " << threshold;
        std::vector<int8_t> plain(size), fast(size);
        for (int64_t r = 0; r < m; ++r) {
          EXPECT_EQ(portable::round_row(x.data() + r * k, k, threshold, plain.data() + r * k),
                    avx512::round_row(x.data() + r * k, k, threshold, fast.data() + r * k));
        }
        EXPECT_EQ(plain, fast) << m << " x " << k << ", threshold " << threshold;
        std::vector<int32_t> plain_sums(static_cast<size_t>(m * 7)), fast_sums(plain_sums);
        portable::dot_rows(plain.data(), m, weights.data(), 7, k, plain_sums.data());
        avx512::dot_rows(plain.data(), m, weights.data(), 7, k, fast_sums.data());
        EXPECT_EQ(plain_sums, fast_sums) << m << " x " << k;
      }
    }
  }
}

TEST(Int8Rows, MeanErrorIsThatOfRowWiseRounding) {
  const int64_t n = 256;
  const int64_t k = 1024;
  const std::vector<float> weight = test::RandomValues(4).normal(n * k, 0, 1);
  const Int8Rows rows = quantize_int8_rows(weight.data(), n, k);
  std::vector<float> row(static_cast<size_t>(k));
  double error = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    dequantize_int8_row(rows.state, rows.codes.data(), i, k, row.data());
    for (int64_t j = 0; j < k; ++j) {
      error += std::fabs(row[static_cast<size_t>(j)] - weight[static_cast<size_t>(i * k + j)]);
    }
  }
  EXPECT_NEAR(error / static_cast<double>(n * k), 0.0068, 0.0003);
}

TEST(Int8Rows, ZeroRowsStayZeroAndValuesBeyondFloat16AreRefused) {
  std::vector<float> weight(8, 0.0f);
  const Int8Rows rows = quantize_int8_rows(weight.data(), 2, 4);
  EXPECT_THAT(rows.codes, ::testing::Each(0));
  EXPECT_THAT(rows.state.absmax, ::testing::Each(0.0f));
  weight[5] = 1e6f;
  EXPECT_THAT([&] { quantize_int8_rows(weight.data(), 2, 4); },
              ::testing::ThrowsMessage<Error>(::testing::HasSubstr("not finite as float16")));
}

}  // namespace
}  // namespace quarry
