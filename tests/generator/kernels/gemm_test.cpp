#include "generator/kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

class Gemm : public testing::TestWithParam<CpuIsa> {
 protected:
  Gemm() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, Gemm, testing::ValuesIn(runnable_isas()), isa_name);

// What gemm should give, in double precision; C's padding columns stay as they are.
void expect_product(const GemmShape& shape, const std::vector<float>& a,
                    const std::vector<float>& b, const std::vector<float>& before,
                    const std::vector<float>& c) {
  for (int64_t i = 0; i < shape.m; ++i) {
    for (int64_t j = 0; j < shape.ldc; ++j) {
      const size_t at = static_cast<size_t>(i * shape.ldc + j);
      if (j >= shape.n) {
        ASSERT_EQ(c[at], before[at]);
        continue;
      }
      double sum = shape.accumulate ? before[at] : 0.0;
      double size = std::fabs(sum);
      for (int64_t p = 0; p < shape.k; ++p) {
        const double term =
            double{a[static_cast<size_t>(i * shape.a_row_stride + p * shape.a_column_stride)]} *
            b[static_cast<size_t>(p * shape.ldb + j)];
        sum += term;
        size += std::fabs(term);
      }
      ASSERT_NEAR(c[at], sum, 1e-6 * (size + 1e-6)) << shape.m << " " << shape.n << " " << shape.k;
    }
  }
}

TEST_P(Gemm, MatchesDoubleAtOddSizesAndStrides) {
  const int64_t sizes[] = {1, 2, 7, 16, 17, 67, 130};
  uint32_t seed = 1;
  for (const int64_t m : {int64_t{1}, int64_t{5}, int64_t{13}}) {
    for (const int64_t n : sizes) {
      for (const int64_t k : {int64_t{0}, int64_t{1}, int64_t{33}}) {
        for (const bool transposed : {false, true}) {
          GemmShape shape;
          shape.m = m;
          shape.n = n;
          shape.k = k;
          shape.a_row_stride = transposed ? 1 : k + 3;
          shape.a_column_stride = transposed ? m + 2 : 1;
          shape.ldb = n + 1;
          shape.ldc = n + 5;
          shape.accumulate = seed % 2 == 0;
          const auto a = random_floats((m + 3) * (k + 3) + 64, seed++);
          const auto b = random_floats((k + 1) * shape.ldb, seed++);
          const auto before = random_floats(m * shape.ldc, seed++);
          std::vector<float> serial = before;
          gemm_serial(shape, a.data(), b.data(), serial.data());
          expect_product(shape, a, b, before, serial);
          std::vector<float> shared = before;
          gemm(shape, a.data(), b.data(), shared.data());
          EXPECT_EQ(serial, shared);
        }
      }
    }
  }
}

TEST_P(Gemm, ThreadsDoNotChangeTheResult) {
  GemmShape shape;
  shape.m = 16;
  shape.n = 576;
  shape.k = 500;
  shape.a_row_stride = 1;
  shape.a_column_stride = 16;
  shape.ldb = 576;
  shape.ldc = 576;
  const auto a = random_floats(16 * 500, 5);
  const auto b = random_floats(576 * 500, 6);
  std::vector<float> serial(16 * 576);
  std::vector<float> shared(serial.size());
  gemm_serial(shape, a.data(), b.data(), serial.data());
  gemm(shape, a.data(), b.data(), shared.data());
  EXPECT_EQ(serial, shared);
}

}  // namespace
}  // namespace quarry::kernels
