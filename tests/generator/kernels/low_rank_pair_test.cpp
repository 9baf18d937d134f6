#include "generator/kernels/low_rank_pair.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "generator/kernels/low_rank_pair_twins.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

std::unique_ptr<PackedMatrix> random_matrix(WeightType type, int64_t n, int64_t k,
                                            Precision precision) {
  const std::vector<float> values = random_floats(n * k, 5, 0.05f);
  if (type == WeightType::kF32) return pack_matrix(type, values.data(), n, k, precision);
  if (needs_quant_state(type)) {
    const std::vector<uint8_t> codes(static_cast<size_t>(n * k / 2), 0x5a);
    QuantState state;
    state.block_size = 64;
    state.absmax.assign(static_cast<size_t>(n * k / 64), 0.1f);
    return pack_quantized(type, state, codes.data(), n, k, precision);
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, n * k)), 0x1b);
  return pack_matrix(type, bytes.data(), n, k, precision);
}

struct Case {
  WeightType type;
  Precision precision;
  double tolerance;  // of the sum of magnitudes
};

class LowRankBeside : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Forms, LowRankBeside,
                         testing::Values(Case{WeightType::kQ4_0, Precision::kFast, 4e-5},
                                         Case{WeightType::kQ4_1, Precision::kFast, 4e-5},
                                         Case{WeightType::kQ6_K, Precision::kFast, 4e-5},
                                         Case{WeightType::kF32, Precision::kFast, 4e-5},
                                         Case{WeightType::kNF4, Precision::kFast, 4e-5},
                                         Case{WeightType::kQ4_0, Precision::kFast8, 1e-2},
                                         Case{WeightType::kQ4_1, Precision::kFast8, 1e-2},
                                         Case{WeightType::kQ6_K, Precision::kFast8, 1e-2},
                                         Case{WeightType::kF32, Precision::kFast8, 1e-2},
                                         Case{WeightType::kNF4, Precision::kFast8, 1e-2}));

// Two targets with 100 and 33 columns; updates of rows [0, 4) and [4, m), the second of which
// leaves the first columns of its target alone.
struct Problem {
  static constexpr int64_t k = 256;
  int64_t rank;
  std::unique_ptr<PackedMatrix> first, second;
  std::vector<float> a, b_first, b_second;
  std::shared_ptr<const LowRankPair> whole, part;

  Problem(const Case& form, int64_t r)
      : rank(r),
        first(random_matrix(form.type, 100, k, form.precision)),
        second(random_matrix(form.type, 33, k, form.precision)),
        a(random_floats(r * k, 1)),
        b_first(random_floats(r * 100, 2)),
        b_second(random_floats(r * 20, 3)),
        whole(std::make_shared<const LowRankPair>(low_rank_form(*first), a.data(), b_first.data(),
                                                  r, 100, k)),
        part(std::make_shared<const LowRankPair>(low_rank_form(*second), a.data(), b_second.data(),
                                                 r, 20, k)) {}

  // y of both targets side by side.
  std::vector<float> run(const std::vector<float>& x, int64_t m, bool with_updates) const {
    std::vector<float> y(static_cast<size_t>(m * 133), -1.0f);
    std::vector<LowRankUpdate> updates;
    if (with_updates) {
      updates.push_back({whole.get(), 0, 0, 0, std::min<int64_t>(m, 4)});
      if (m > 4) updates.push_back({part.get(), 1, 13, 4, m});
    }
    matmul_group({{first.get(), y.data(), 133}, {second.get(), y.data() + 100, 133}}, x.data(), m,
                 k, ActivationBits::k16, {}, updates);
    return y;
  }

  // B (A x) at a place, and the sum of magnitudes.
  std::pair<double, double> update_at(const float* x, int64_t row, int64_t column) const {
    const bool is_first = row < 4;
    const int64_t width = is_first ? 100 : 20;
    const int64_t at = is_first ? column : column - 113;
    if (at < 0 || at >= width) return {0.0, 0.0};
    double sum = 0.0, size = 0.0;
    for (int64_t r = 0; r < rank; ++r) {
      const double b = (is_first ? b_first : b_second)[static_cast<size_t>(r * width + at)];
      for (int64_t j = 0; j < k; ++j) {
        const double term = b * a[static_cast<size_t>(r * k + j)] * x[row * k + j];
        sum += term;
        size += std::fabs(term);
      }
    }
    return {sum, size};
  }
};

TEST_P(LowRankBeside, AddsTheUpdateToTheProduct) {
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (const int64_t rank : {1, 8, 16, 19}) {
      const Problem problem(GetParam(), rank);
      for (const int64_t m : {1, 4, 7, 30}) {
        const auto x = random_floats(m * Problem::k, 4);
        const std::vector<float> y = problem.run(x, m, true);
        const std::vector<float> base = problem.run(x, m, false);
        for (int64_t i = 0; i < m * 133; ++i) {
          const auto [sum, size] = problem.update_at(x.data(), i / 133, i % 133);
          const auto at = static_cast<size_t>(i);
          ASSERT_NEAR(y[at] - base[at], sum, GetParam().tolerance * size + 1e-6 * std::fabs(y[at]))
              << cpu_isa_name(isa) << " rank " << rank << " m " << m << " at " << i;
        }
      }
    }
  }
}

TEST_P(LowRankBeside, RowsDoNotDependOnTheirBatch) {
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    const Problem problem(GetParam(), 16);
    const int64_t m = 201;
    const auto x = random_floats(m * Problem::k, 4);
    const auto run = [&](int64_t begin, int64_t end) {
      std::vector<float> y(static_cast<size_t>((end - begin) * 100));
      const std::vector<LowRankUpdate> updates = {{problem.whole.get(), 0, 0, 0, end - begin}};
      matmul_group({{problem.first.get(), y.data(), 100}}, x.data() + begin * Problem::k,
                   end - begin, Problem::k, ActivationBits::k16, {}, updates);
      return y;
    };
    const std::vector<float> all = run(0, m);
    std::vector<float> parts;
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 1}, {1, 9}, {9, 106}, {106, m}}) {
      const std::vector<float> part = run(begin, end);
      parts.insert(parts.end(), part.begin(), part.end());
    }
    EXPECT_EQ(parts, all) << cpu_isa_name(isa);
  }
}

TEST(LowRankBytes, Avx512EqualsPortableAndLeavesOtherColumnsAlone) {
  if (detect_cpu_isa() < CpuIsa::kAvx512) GTEST_SKIP() << "needs AVX-512";
  for (const int64_t groups : {1, 4, 5}) {
    const int64_t row_bytes = 4 * groups + 8;
    const std::vector<float> scales = random_floats(160, 1);
    std::vector<uint8_t> codes(static_cast<size_t>(10 * groups * 64));
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 37 % 255 + 1);
    std::vector<uint8_t> u(static_cast<size_t>(17 * row_bytes));
    for (size_t i = 0; i < u.size(); ++i) u[i] = static_cast<uint8_t>(i * 11 % 61);
    const LowRankBytes b = {codes.data(), scales.data(), groups};
    for (const int64_t rows : {0, 1, 5, 6, 17}) {
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 160}, {3, 5}, {15, 99}}) {
        const std::vector<float> before = random_floats(rows * 170 + 16, 2);
        std::vector<float> plain = before;
        std::vector<float> fast = before;
        const LowRankRows all = {u.data(), row_bytes, rows};
        portable::add_low_rank_bytes(b, all, begin, end, plain.data() + 16, 170);
        avx512::add_low_rank_bytes(b, all, begin, end, fast.data() + 16, 170);
        EXPECT_EQ(plain, fast) << groups << " groups, " << rows << " rows, from " << begin;
      }
    }
  }
}

TEST(LowRankBytes, Avx512RoundsRowsAsPortableDoes) {
  if (detect_cpu_isa() < CpuIsa::kAvx512) GTEST_SKIP() << "needs AVX-512";
  for (const int64_t rank : {1, 4, 15, 16, 17, 64, 67}) {
    std::vector<std::vector<float>> rows(5, random_floats(rank, 3));
    std::fill(rows[1].begin(), rows[1].end(), 0.0f);
    rows[2].back() = std::numeric_limits<float>::infinity();
    rows[3].front() = std::nanf("");
    for (float& value : rows[4]) value *= 1e-43f;
    for (size_t i = 0; i < rows.size(); ++i) {
      std::vector<uint8_t> plain(static_cast<size_t>((rank + 3) / 4 * 4 + 8), 0xee);
      std::vector<uint8_t> fast = plain;
      portable::round_low_rank_row(rows[i].data(), rank, plain.data());
      avx512::round_low_rank_row(rows[i].data(), rank, fast.data());
      EXPECT_EQ(plain, fast) << "rank " << rank << ", row " << i;
    }
  }
}

TEST(LowRankForm, ExactProductsHaveNone) {
  const auto exact = random_matrix(WeightType::kQ4_0, 16, 64, Precision::kExact);
  EXPECT_EQ(low_rank_form(*exact).terms, 0);
  const auto odd = random_matrix(WeightType::kF32, 16, 67, Precision::kFast);
  EXPECT_EQ(low_rank_form(*odd).terms, 0);
}

}  // namespace
}  // namespace quarry::kernels
