#include "generator/kernels/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/core/parallel_for.h"
#include "generator/quant/half.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

class LowRank : public testing::TestWithParam<CpuIsa> {
 protected:
  LowRank() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, LowRank, testing::ValuesIn(runnable_isas()), isa_name);

float rounded(float value) { return quant::bfloat16_to_float(quant::float_to_bfloat16(value)); }

// x [count, width] within rows of `stride`, and factors u [count, rank], weights [rank, width].
struct Problem {
  int64_t count;
  int64_t width;
  int64_t rank;
  int64_t stride = width + (width % 4 == 0 ? 8 : 6);
  std::vector<uint16_t> bits;
  std::vector<float> u = random_floats(count * rank, 2);
  std::vector<float> weights = random_floats(rank * width, 3);

  Problem(int64_t num_rows, int64_t columns, int64_t r) : count(num_rows), width(columns), rank(r) {
    for (const float value : random_floats(count * stride, 1)) {
      bits.push_back(quant::float_to_bfloat16(value));
    }
  }
  BFloat16Rows rows() const { return {bits.data(), stride, count, width}; }
  float x(int64_t i, int64_t j) const {
    return quant::bfloat16_to_float(bits[static_cast<size_t>(i * stride + j)]);
  }
  float u_at(int64_t i, int64_t r) const { return rounded(u[static_cast<size_t>(i * rank + r)]); }
  float weight(int64_t r, int64_t j) const {
    return rounded(weights[static_cast<size_t>(r * width + j)]);
  }
};

std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const int64_t count : {1, 11, 67, 130}) {
    for (const int64_t width : {2, 4, 16, 130, 300}) {
      for (const int64_t rank : {1, 3, 7, 8, 17}) all.emplace_back(count, width, rank);
    }
  }
  all.emplace_back(500, 576, 16);  // enough for two threads
  return all;
}

void expect_sum(float actual, double wanted, double size) {
  ASSERT_NEAR(actual, wanted, 1e-6 * (size + 1e-6));
}

TEST_P(LowRank, ProjectIsTheProductOfRoundedOperands) {
  for (const Problem& p : problems()) {
    std::vector<float> u(p.u.size(), 99.0f);
    low_rank_project(p.rows(), p.weights.data(), p.rank, u.data());
    for (int64_t i = 0; i < p.count; ++i) {
      for (int64_t r = 0; r < p.rank; ++r) {
        double sum = 0.0;
        double size = 0.0;
        for (int64_t j = 0; j < p.width; ++j) {
          sum += double{p.x(i, j)} * p.weight(r, j);
          size += std::fabs(double{p.x(i, j)} * p.weight(r, j));
        }
        expect_sum(u[static_cast<size_t>(i * p.rank + r)], sum, size);
      }
    }
  }
}

TEST_P(LowRank, ExpandAddsTheProductAndLeavesThePadding) {
  for (const Problem& p : problems()) {
    const int64_t ldy = p.width + 3;
    const auto before = random_floats(p.count * ldy, 4);
    auto y = before;
    low_rank_expand(p.u.data(), p.count, p.rank, p.weights.data(), p.width, y.data(), ldy);
    for (int64_t i = 0; i < p.count; ++i) {
      for (int64_t j = 0; j < ldy; ++j) {
        const auto at = static_cast<size_t>(i * ldy + j);
        if (j >= p.width) {
          ASSERT_EQ(y[at], before[at]);
          continue;
        }
        double sum = before[at];
        double size = std::fabs(sum);
        for (int64_t r = 0; r < p.rank; ++r) {
          sum += double{p.u_at(i, r)} * p.weight(r, j);
          size += std::fabs(double{p.u_at(i, r)} * p.weight(r, j));
        }
        expect_sum(y[at], sum, size);
      }
    }
  }
}

TEST_P(LowRank, OuterAddsTheSumOverRows) {
  for (const Problem& p : problems()) {
    const auto before = random_floats(p.rank * p.width, 5);
    auto sums = before;
    low_rank_outer(p.u.data(), p.rank, p.rows(), sums.data());
    for (int64_t r = 0; r < p.rank; ++r) {
      for (int64_t j = 0; j < p.width; ++j) {
        const auto at = static_cast<size_t>(r * p.width + j);
        double sum = before[at];
        double size = std::fabs(sum);
        for (int64_t i = 0; i < p.count; ++i) {
          sum += double{p.u_at(i, r)} * p.x(i, j);
          size += std::fabs(double{p.u_at(i, r)} * p.x(i, j));
        }
        expect_sum(sums[at], sum, size);
      }
    }
  }
}

TEST_P(LowRank, ThreadsDoNotChangeTheResult) {
  const Problem p(500, 576, 16);
  const int threads = num_threads();
  std::vector<std::vector<float>> results;
  for (const int count : {1, 4}) {
    set_num_threads(count);
    std::vector<float> all(p.u.size() + 500 * 576 + p.weights.size());
    float* y = all.data() + p.u.size();
    low_rank_project(p.rows(), p.weights.data(), p.rank, all.data());
    low_rank_expand(p.u.data(), p.count, p.rank, p.weights.data(), p.width, y, p.width);
    low_rank_outer(p.u.data(), p.rank, p.rows(), y + 500 * 576);
    results.push_back(std::move(all));
  }
  set_num_threads(threads);
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace quarry::kernels
