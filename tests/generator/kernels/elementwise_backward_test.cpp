#include "generator/kernels/elementwise_backward.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "generator/kernels/elementwise.h"
#include "generator/quant/half.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

const int64_t kSizes[] = {1, 7, 8, 9, 15, 16, 17, 31, 67, 300};

class ElementwiseBackward : public testing::TestWithParam<CpuIsa> {
 protected:
  ElementwiseBackward() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, ElementwiseBackward, testing::ValuesIn(runnable_isas()), isa_name);

TEST_P(ElementwiseBackward, RmsNormMatchesDouble) {
  const float epsilon = 1e-5f;
  const int64_t rows = 2;
  for (const int64_t width : kSizes) {
    const auto x = random_floats(rows * width, 1, 2.0f);
    const auto weight = random_floats(width, 2);
    const auto gradient = random_floats(rows * width, 3);
    std::vector<float> out(x.size());
    rms_norm_backward(x.data(), weight.data(), epsilon, gradient.data(), rows, width, out.data());
    std::vector<float> in_place = gradient;
    rms_norm_backward(x.data(), weight.data(), epsilon, in_place.data(), rows, width,
                      in_place.data());
    EXPECT_EQ(out, in_place);
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      double products = 0.0;
      for (int64_t i = 0; i < width; ++i) {
        const double value = x[r * width + i];
        squares += value * value;
        products += value * weight[i] * gradient[r * width + i];
      }
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon);
      for (int64_t i = 0; i < width; ++i) {
        const double wanted =
            scale * weight[i] * gradient[r * width + i] -
            x[r * width + i] * std::pow(scale, 3) / static_cast<double>(width) * products;
        ASSERT_NEAR(out[r * width + i], wanted, 1e-5 * (1.0 + std::fabs(wanted))) << width;
      }
    }
  }
}

TEST_P(ElementwiseBackward, LayerNormMatchesDouble) {
  const float epsilon = 1e-5f;
  const int64_t rows = 2;
  for (const int64_t width : kSizes) {
    auto x = random_floats(rows * width, 21, 2.0f);
    for (float& value : x) value += 3.0f;
    const auto weight = random_floats(width, 22);
    const auto gradient = random_floats(rows * width, 23);
    std::vector<float> out(x.size());
    layer_norm_backward(x.data(), weight.data(), epsilon, gradient.data(), rows, width, out.data());
    std::vector<float> in_place = gradient;
    layer_norm_backward(x.data(), weight.data(), epsilon, in_place.data(), rows, width,
                        in_place.data());
    EXPECT_EQ(out, in_place);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = x.data() + r * width;
      const auto count = static_cast<double>(width);
      double mean = 0.0;
      for (int64_t i = 0; i < width; ++i) mean += row[i] / count;
      double variance = 0.0;
      for (int64_t i = 0; i < width; ++i) variance += (row[i] - mean) * (row[i] - mean) / count;
      const double scale = 1.0 / std::sqrt(variance + epsilon);
      double shift = 0.0;
      double pull = 0.0;
      for (int64_t i = 0; i < width; ++i) {
        const double wg = double{weight[i]} * gradient[r * width + i];
        shift += wg / count;
        pull += wg * (row[i] - mean) * scale / count;
      }
      for (int64_t i = 0; i < width; ++i) {
        const double wanted = scale * (double{weight[i]} * gradient[r * width + i] - shift -
                                       (row[i] - mean) * scale * pull);
        // A row of one element has no spread: 1 / sqrt(epsilon) stands before a rounding error.
        ASSERT_NEAR(out[r * width + i], wanted, 2e-5 * (1.0 + std::fabs(wanted))) << width;
      }
    }
  }
}

TEST_P(ElementwiseBackward, GeluMatchesDouble) {
  for (const int64_t count : kSizes) {
    const auto x = random_floats(count, 24, 2.5f);
    const auto gradient = random_floats(count, 25);
    std::vector<float> out(x.size());
    gelu_backward(x.data(), gradient.data(), count, out.data());
    for (int64_t i = 0; i < count; ++i) {
      const double v = x[i];
      const double wanted =
          gradient[i] * (0.5 * std::erfc(-v / std::sqrt(2.0)) +
                         v * std::exp(-0.5 * v * v) / std::sqrt(2.0 * std::acos(-1.0)));
      ASSERT_NEAR(out[i], wanted, 2e-6 * (1.0 + std::fabs(gradient[i]))) << v;
    }
  }
}

TEST_P(ElementwiseBackward, SiluMulMatchesDouble) {
  for (const int64_t count : kSizes) {
    const auto gate = random_floats(count, 4, 4.0f);
    const auto up = random_floats(count, 5);
    const auto gradient = random_floats(count, 6);
    std::vector<float> gate_out(gate.size());
    std::vector<float> up_out(gate.size());
    silu_mul_backward(gate.data(), up.data(), gradient.data(), count, gate_out.data(),
                      up_out.data());
    for (int64_t i = 0; i < count; ++i) {
      const double s = 1.0 / (1.0 + std::exp(-double{gate[i]}));
      const double wanted_gate = gradient[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
      const double wanted_up = gradient[i] * gate[i] * s;
      ASSERT_NEAR(gate_out[i], wanted_gate, 2e-6 * (1.0 + std::fabs(wanted_gate)));
      ASSERT_NEAR(up_out[i], wanted_up, 2e-6 * (1.0 + std::fabs(wanted_up)));
    }
  }
}

TEST_P(ElementwiseBackward, RopeBackwardUndoesRope) {
  const int64_t tokens = 3;
  const int64_t heads = 2;
  const int64_t dim = 18;
  const auto cosine = random_floats(9 * 8, 7);
  auto sine = random_floats(9 * 8, 8);
  auto unit_cosine = cosine;
  for (size_t i = 0; i < sine.size(); ++i) {
    unit_cosine[i] = std::cos(cosine[i]);
    sine[i] = std::sin(cosine[i]);
  }
  const int32_t positions[] = {0, 7, 3};
  const auto x = random_floats(tokens * heads * dim, 9);
  auto turned = x;
  rope(turned.data(), positions, tokens, heads, dim, heads * dim, unit_cosine.data(), sine.data(),
       RopePairing::kHalf);
  EXPECT_NE(turned, x);
  rope_backward(turned.data(), positions, tokens, heads, dim, heads * dim, unit_cosine.data(),
                sine.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(turned[i], x[i], 1e-6);
}

TEST_P(ElementwiseBackward, SoftmaxAndItsGradientMatchDouble) {
  for (const int64_t count : kSizes) {
    const auto x = random_floats(count, 10, 5.0f);
    const auto gradient = random_floats(count, 11);
    std::vector<float> p = x;
    const float log_sum = softmax(p.data(), count);
    double sum = 0.0;
    for (const float value : x) sum += std::exp(double{value});
    EXPECT_NEAR(log_sum, std::log(sum), 1e-5);
    double mean = 0.0;
    for (int64_t i = 0; i < count; ++i) mean += std::exp(double{x[i]}) / sum * gradient[i];
    std::vector<float> out(x.size());
    softmax_backward(p.data(), gradient.data(), count, 0.5f, out.data());
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = std::exp(double{x[i]}) / sum;
      ASSERT_NEAR(p[i], wanted, 1e-6);
      ASSERT_NEAR(out[i], 0.5 * wanted * (gradient[i] - mean), 1e-6);
    }
  }
}

TEST_P(ElementwiseBackward, AddScaledAdds) {
  for (const int64_t count : kSizes) {
    const auto x = random_floats(count, 12);
    auto out = random_floats(count, 13);
    const auto before = out;
    add_scaled(x.data(), -1.5f, count, out.data());
    for (int64_t i = 0; i < count; ++i) ASSERT_NEAR(out[i], before[i] - 1.5f * x[i], 1e-6);
  }
}

TEST_P(ElementwiseBackward, SoftmaxScalesWhatItGets) {
  for (const int64_t count : kSizes) {
    const auto x = random_floats(count, 10, 5.0f);
    std::vector<float> p = x;
    const float log_sum = softmax(p.data(), count, 0.3f);
    double sum = 0.0;
    for (const float value : x) sum += std::exp(0.3 * double{value});
    EXPECT_NEAR(log_sum, std::log(sum), 1e-5);
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_NEAR(p[i], std::exp(0.3 * double{x[i]}) / sum, 1e-6);
    }
  }
}

TEST_P(ElementwiseBackward, InterleaveTakesTurns) {
  for (const int64_t count : kSizes) {
    std::vector<uint16_t> even, odd, out(static_cast<size_t>(2 * count));
    for (int64_t i = 0; i < count; ++i) {
      even.push_back(static_cast<uint16_t>(3 * i));
      odd.push_back(static_cast<uint16_t>(50000 + i));
    }
    interleave(even.data(), odd.data(), count, out.data());
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(out[2 * i], even[i]);
      ASSERT_EQ(out[2 * i + 1], odd[i]);
    }
  }
}

TEST_P(ElementwiseBackward, BFloat16RoundsToNearestEvenAndComesBack) {
  auto x = random_floats(300, 14, 100.0f);
  x[0] = std::numeric_limits<float>::infinity();
  x[1] = -0.0f;
  x[2] = 1.00390625f;  // a tie: down to even
  x[3] = 1.01171875f;  // a tie: up to even
  std::vector<uint16_t> bits(x.size());
  std::vector<float> back(x.size());
  float_to_bfloat16(x.data(), static_cast<int64_t>(x.size()), bits.data());
  bfloat16_to_float(bits.data(), static_cast<int64_t>(x.size()), back.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(bits[i], quant::float_to_bfloat16(x[i])) << x[i];
    ASSERT_EQ(back[i], quant::bfloat16_to_float(bits[i]));
  }
  EXPECT_EQ(back[2], 1.0f);
  EXPECT_EQ(back[3], 1.015625f);
  const float nan = std::nanf("");
  float_to_bfloat16(&nan, 1, bits.data());
  bfloat16_to_float(bits.data(), 1, back.data());
  EXPECT_TRUE(std::isnan(back[0]));
}

}  // namespace
}  // namespace quarry::kernels
