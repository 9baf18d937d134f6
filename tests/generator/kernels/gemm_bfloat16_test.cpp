#include "generator/kernels/gemm_bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>

#include "generator/quant/half.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

class GemmBFloat16 : public testing::TestWithParam<CpuIsa> {
 protected:
  GemmBFloat16() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, GemmBFloat16, testing::ValuesIn(runnable_isas()), isa_name);

std::vector<BFloat16Pair> random_pairs(int64_t count, uint32_t seed) {
  const auto values = random_floats(2 * count, seed);
  std::vector<BFloat16Pair> pairs;
  for (size_t i = 0; i < values.size(); i += 2) {
    pairs.push_back({quant::float_to_bfloat16(values[i]), quant::float_to_bfloat16(values[i + 1])});
  }
  return pairs;
}

// What the product should give, in double precision; C's padding columns stay as they are.
void expect_product(const GemmShape& shape, const std::vector<BFloat16Pair>& a,
                    const std::vector<BFloat16Pair>& b, const std::vector<float>& before,
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
        const BFloat16Pair& x =
            a[static_cast<size_t>(i * shape.a_row_stride + p * shape.a_column_stride)];
        const BFloat16Pair& y = b[static_cast<size_t>(p * shape.ldb + j)];
        const double even =
            double{quant::bfloat16_to_float(x.even)} * quant::bfloat16_to_float(y.even);
        const double odd =
            double{quant::bfloat16_to_float(x.odd)} * quant::bfloat16_to_float(y.odd);
        sum += even + odd;
        size += std::fabs(even) + std::fabs(odd);
      }
      ASSERT_NEAR(c[at], sum, 1e-6 * (size + 1e-6)) << shape.m << " " << shape.n << " " << shape.k;
    }
  }
}

TEST_P(GemmBFloat16, MatchesDoubleAtOddSizesAndStrides) {
  const int64_t sizes[] = {1, 2, 15, 16, 17, 67, 130};
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
          const auto a = random_pairs((m + 3) * (k + 3) + 64, seed++);
          const auto b = random_pairs((k + 1) * shape.ldb, seed++);
          const auto before = random_floats(m * shape.ldc, seed++);
          std::vector<float> c = before;
          gemm_bfloat16_serial(shape, a.data(), b.data(), c.data());
          expect_product(shape, a, b, before, c);
        }
      }
    }
  }
}

// Columns 2 j and 2 j + 1 of quads together are column j of the product of pairs.
TEST_P(GemmBFloat16, QuadsSumToTheProductOfPairs) {
  for (const int64_t m : {int64_t{1}, int64_t{13}}) {
    for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{8}, int64_t{20}}) {
      const int64_t quads = 21;
      const auto a = random_pairs(m * 2 * quads, 11);
      const auto b = random_pairs(2 * quads * n, 12);
      std::vector<BFloat16Pair> halves(b.size());  // [quads, 2 n]
      for (int64_t p = 0; p < 2 * quads; ++p) {
        for (int64_t j = 0; j < n; ++j) {
          halves[static_cast<size_t>(p / 2 * 2 * n + 2 * j + p % 2)] =
              b[static_cast<size_t>(p * n + j)];
        }
      }
      GemmShape shape;
      shape.m = m;
      shape.k = quads;
      shape.a_row_stride = quads;
      shape.n = shape.ldb = shape.ldc = 2 * n;
      std::vector<float> sums(static_cast<size_t>(m * 2 * n));
      gemm_bfloat16_quads_serial(shape, reinterpret_cast<const BFloat16Quad*>(a.data()),
                                 halves.data(), sums.data());
      std::vector<float> c;
      for (size_t i = 0; i < sums.size(); i += 2) c.push_back(sums[i] + sums[i + 1]);
      shape.k = shape.a_row_stride = 2 * quads;
      shape.n = shape.ldb = shape.ldc = n;
      expect_product(shape, a, b, c, c);
    }
  }
}

TEST_P(GemmBFloat16, ARowDoesNotDependOnTheOthers) {
  GemmShape shape;
  shape.m = 13;
  shape.n = 67;
  shape.k = 21;
  shape.a_row_stride = 21;
  shape.ldb = shape.ldc = 67;
  const auto a = random_pairs(13 * 21, 1);
  const auto b = random_pairs(21 * 67, 2);
  std::vector<float> all(13 * 67);
  gemm_bfloat16_serial(shape, a.data(), b.data(), all.data());
  shape.m = 1;
  shape.n = 3;
  for (int64_t row = 0; row < 13; ++row) {
    std::vector<float> alone(67);
    gemm_bfloat16_serial(shape, a.data() + row * 21, b.data() + 40, alone.data());
    for (int64_t j = 0; j < 3; ++j) {
      EXPECT_EQ(alone[static_cast<size_t>(j)], all[static_cast<size_t>(row * 67 + 40 + j)]);
    }
  }
}

}  // namespace
}  // namespace quarry::kernels
