#include "generator/kernels/activations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

const int64_t kSizes[] = {1, 7, 8, 9, 15, 16, 17, 31, 67, 300};

class Activations : public testing::TestWithParam<CpuIsa> {
 protected:
  Activations() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, Activations, testing::ValuesIn(runnable_isas()), isa_name);

double exact_gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double tanh_gelu(double x) {
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

// The slope of `f` at x by differences, good to 1e-9.
template <typename F>
double slope(const F& f, double x) {
  const double h = 1e-5;
  return (f(x + h) - f(x - h)) / (2.0 * h);
}

void expect_near(float found, double wanted) {
  EXPECT_NEAR(found, wanted, 3e-6 * (1.0 + std::fabs(wanted)));
}

TEST_P(Activations, ValuesMatchDouble) {
  for (const int64_t count : kSizes) {
    const auto x = random_floats(count, 1, 6.0f);
    const auto up = random_floats(count, 2);
    std::vector<float> gelu(x.size());
    std::vector<float> gated(x.size());
    std::vector<float> rectified = x;
    gelu_tanh(x.data(), count, gelu.data());
    gelu_tanh_mul(x.data(), up.data(), count, gated.data());
    relu(rectified.data(), count, rectified.data());
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = tanh_gelu(x[i]);
      expect_near(gelu[i], wanted);
      expect_near(gated[i], wanted * up[i]);
      ASSERT_EQ(rectified[i], std::max(x[i], 0.0f));
    }
  }
}

TEST_P(Activations, GradientsMatchDouble) {
  for (const int64_t count : kSizes) {
    const auto x = random_floats(count, 3, 6.0f);
    const auto up = random_floats(count, 4);
    const auto gradient = random_floats(count, 5);
    std::vector<float> exact(x.size());
    std::vector<float> approximate = gradient;
    std::vector<float> rectified(x.size());
    std::vector<float> gate_out(x.size());
    std::vector<float> up_out(x.size());
    gelu_backward(x.data(), gradient.data(), count, exact.data());
    gelu_tanh_backward(x.data(), approximate.data(), count, approximate.data());
    relu_backward(x.data(), gradient.data(), count, rectified.data());
    gelu_tanh_mul_backward(x.data(), up.data(), gradient.data(), count, gate_out.data(),
                           up_out.data());
    for (int64_t i = 0; i < count; ++i) {
      expect_near(exact[i], gradient[i] * slope(exact_gelu, x[i]));
      expect_near(approximate[i], gradient[i] * slope(tanh_gelu, x[i]));
      ASSERT_EQ(rectified[i], x[i] > 0.0f ? gradient[i] : 0.0f);
      expect_near(gate_out[i], gradient[i] * up[i] * slope(tanh_gelu, x[i]));
      expect_near(up_out[i], gradient[i] * tanh_gelu(x[i]));
    }
  }
}

TEST_P(Activations, LargeAndMissingNumbersStayWhatTheyAre) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {-1e30f, -100.0f, 0.0f, 100.0f, 1e18f, nan};
  std::vector<float> out(x.size());
  gelu_tanh(x.data(), 6, out.data());
  EXPECT_NEAR(out[1], 0.0f, 1e-30f);
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(out[3], 100.0f);
  EXPECT_EQ(out[4], 1e18f);
  EXPECT_TRUE(std::isnan(out[5]));
  relu(x.data(), 6, out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[4], 1e18f);
  EXPECT_TRUE(std::isnan(out[5]));
  const std::vector<float> ones(6, 1.0f);
  gelu_tanh_backward(x.data(), ones.data(), 2, out.data());
  EXPECT_NEAR(out[1], 0.0f, 1e-30f);
}

}  // namespace
}  // namespace quarry::kernels
