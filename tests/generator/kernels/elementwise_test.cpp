#include "generator/kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "generator/quant/half.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

const int64_t kSizes[] = {1, 7, 8, 9, 15, 16, 17, 31, 67, 300};

class Elementwise : public testing::TestWithParam<CpuIsa> {
 protected:
  Elementwise() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, Elementwise, testing::ValuesIn(runnable_isas()), isa_name);

TEST_P(Elementwise, RmsNormMatchesDouble) {
  const float epsilon = 1e-5f;
  const int64_t rows = 3;
  for (const int64_t width : kSizes) {
    const auto x = random_floats(rows * width, 1, 3.0f);
    const auto weight = random_floats(width, 2);
    std::vector<float> out(x.size());
    rms_norm(x.data(), weight.data(), epsilon, rows, width, out.data());
    std::vector<float> in_place = x;
    rms_norm(in_place.data(), weight.data(), epsilon, rows, width, in_place.data());
    EXPECT_EQ(out, in_place);
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (int64_t i = 0; i < width; ++i) squares += std::pow(double{x[r * width + i]}, 2);
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon);
      for (int64_t i = 0; i < width; ++i) {
        const double wanted = x[r * width + i] * scale * weight[i];
        ASSERT_NEAR(out[r * width + i], wanted, 1e-6 * (1.0 + std::fabs(wanted))) << width;
      }
    }
  }
}

TEST_P(Elementwise, LayerNormMatchesDoubleWithAndWithoutBias) {
  const float epsilon = 1e-12f;
  const int64_t rows = 2;
  for (const int64_t width : kSizes) {
    auto x = random_floats(rows * width, 3, 2.0f);
    for (float& value : x) value += 5.0f;
    const auto weight = random_floats(width, 4);
    const auto bias = random_floats(width, 5);
    for (const float* b : {bias.data(), static_cast<const float*>(nullptr)}) {
      std::vector<float> out(x.size());
      layer_norm(x.data(), weight.data(), b, epsilon, rows, width, out.data());
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x.data() + r * width;
        double mean = 0.0;
        for (int64_t i = 0; i < width; ++i) mean += row[i];
        mean /= static_cast<double>(width);
        double variance = 0.0;
        for (int64_t i = 0; i < width; ++i) variance += std::pow(row[i] - mean, 2);
        variance /= static_cast<double>(width);
        for (int64_t i = 0; i < width && width > 1; ++i) {
          const double wanted = (row[i] - mean) / std::sqrt(variance + epsilon) * weight[i] +
                                (b == nullptr ? 0.0 : b[i]);
          ASSERT_NEAR(out[r * width + i], wanted, 5e-6 * (1.0 + std::fabs(wanted))) << width;
        }
      }
    }
  }
}

TEST_P(Elementwise, SiluMulMatchesDouble) {
  for (const int64_t count : kSizes) {
    const auto gate = random_floats(count, 6, 8.0f);
    const auto up = random_floats(count, 7);
    std::vector<float> out(gate.size());
    silu_mul(gate.data(), up.data(), count, out.data());
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = gate[i] / (1.0 + std::exp(-double{gate[i]})) * up[i];
      ASSERT_NEAR(out[i], wanted, 2e-6 * std::fabs(wanted) + 1e-9);
    }
  }
}

TEST_P(Elementwise, SiluOfHugeValuesIsFinite) {
  const std::vector<float> gate = {-1e4f, -100.0f, -89.0f, 89.0f, 1e4f};
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  silu_mul(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
  for (int i : {0, 1, 2}) EXPECT_NEAR(out[i], 0.0f, 1e-30f);
  EXPECT_FLOAT_EQ(out[3], 89.0f);
  EXPECT_FLOAT_EQ(out[4], 1e4f);
}

TEST_P(Elementwise, GeluIsWithinTwoMillionths) {
  std::vector<float> x;
  for (float value = -12.0f; value <= 12.0f; value += 0.0037f) x.push_back(value);
  x.insert(x.end(), {0.0f, -0.0f, 1e-20f, 1e4f, -1e4f});
  std::vector<float> out(x.size());
  gelu(x.data(), static_cast<int64_t>(x.size()), out.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double wanted = x[i] * 0.5 * std::erfc(-x[i] / std::sqrt(2.0));
    ASSERT_NEAR(out[i], wanted, 2e-6) << x[i];
  }
}

TEST_P(Elementwise, AddAndAddBias) {
  for (const int64_t count : kSizes) {
    const auto a = random_floats(count, 8);
    const auto b = random_floats(count, 9);
    std::vector<float> out(a.size());
    add(a.data(), b.data(), count, out.data());
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(out[i], a[i] + b[i]);
    std::vector<float> rows = random_floats(3 * count, 10);
    const std::vector<float> before = rows;
    add_bias(rows.data(), b.data(), 3, count);
    for (int64_t i = 0; i < 3 * count; ++i) ASSERT_EQ(rows[i], before[i] + b[i % count]);
  }
}

TEST_P(Elementwise, RopeMatchesDoubleInBothPairings) {
  const int64_t tokens = 3;
  const int64_t heads = 2;
  const std::vector<int32_t> positions = {4, 0, 9};
  for (const int64_t head_dim : {2, 6, 32, 64, 68}) {
    const int64_t half = head_dim / 2;
    const int64_t ldx = heads * head_dim + 3;
    std::vector<float> cosine;
    std::vector<float> sine;
    for (int64_t p = 0; p < 10; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(1e4, -2.0 * static_cast<double>(i) / head_dim);
        cosine.push_back(static_cast<float>(std::cos(angle)));
        sine.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    for (const RopePairing pairing : {RopePairing::kHalf, RopePairing::kInterleaved}) {
      const auto before = random_floats(tokens * ldx, 11);
      std::vector<float> x = before;
      rope(x.data(), positions.data(), tokens, heads, head_dim, ldx, cosine.data(), sine.data(),
           pairing);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t h = 0; h < heads; ++h) {
          for (int64_t i = 0; i < half; ++i) {
            const int64_t base = t * ldx + h * head_dim;
            const int64_t first = base + (pairing == RopePairing::kHalf ? i : 2 * i);
            const int64_t second = base + (pairing == RopePairing::kHalf ? i + half : 2 * i + 1);
            const double c = cosine[positions[t] * half + i];
            const double s = sine[positions[t] * half + i];
            ASSERT_NEAR(x[first], before[first] * c - before[second] * s, 1e-6);
            ASSERT_NEAR(x[second], before[first] * s + before[second] * c, 1e-6);
          }
        }
        for (int64_t i = heads * head_dim; i < ldx; ++i) {
          ASSERT_EQ(x[t * ldx + i], before[t * ldx + i]);
        }
      }
    }
  }
}

TEST_P(Elementwise, EveryHalfSurvivesTheRoundTrip) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(halves.size());
  half_to_float(halves.data(), static_cast<int64_t>(halves.size()), floats.data());
  std::vector<uint16_t> back(halves.size());
  float_to_half(floats.data(), static_cast<int64_t>(floats.size()), back.data());
  for (size_t i = 0; i < halves.size(); ++i) {
    if (std::isnan(quant::half_to_float(halves[i]))) {
      ASSERT_TRUE(std::isnan(floats[i])) << i;
      ASSERT_TRUE(std::isnan(quant::half_to_float(back[i]))) << i;
    } else {
      const float wanted = quant::half_to_float(halves[i]);
      ASSERT_EQ(std::memcmp(&floats[i], &wanted, sizeof(wanted)), 0) << i;
      ASSERT_EQ(back[i], halves[i]) << i;
    }
  }
}

TEST_P(Elementwise, FloatToHalfRoundsToNearestEven) {
  auto x = random_floats(1031, 12, 100.0f);
  const auto tiny = random_floats(517, 13, 3e-6f);
  x.insert(x.end(), tiny.begin(), tiny.end());
  x.insert(x.end(), {65504.0f, 65519.9f, 65520.0f, -1e9f, 1.00048828125f, 1.00146484375f, 0.0f,
                     std::numeric_limits<float>::infinity()});
  std::vector<uint16_t> out(x.size());
  float_to_half(x.data(), static_cast<int64_t>(x.size()), out.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(out[i], quant::float_to_half(x[i])) << x[i];
}

TEST_P(Elementwise, ArgmaxTakesTheFirstOfEquals) {
  for (const int64_t count : kSizes) {
    auto x = random_floats(count, 14);
    int64_t wanted = 0;
    for (int64_t i = 1; i < count; ++i) {
      if (x[i] > x[wanted]) wanted = i;
    }
    EXPECT_EQ(argmax(x.data(), count), wanted);
    x[count - 1] = x[count / 2] = 50.0f;
    EXPECT_EQ(argmax(x.data(), count), count / 2);
    x.assign(x.size(), -std::numeric_limits<float>::infinity());
    EXPECT_EQ(argmax(x.data(), count), 0);
  }
}

TEST_P(Elementwise, HasNanFindsOneAnywhere) {
  for (const int64_t count : kSizes) {
    auto x = random_floats(count, 15);
    x[0] = -std::numeric_limits<float>::infinity();
    EXPECT_FALSE(has_nan(x.data(), count));
    for (const int64_t at : {int64_t{0}, count / 2, count - 1}) {
      const float before = std::exchange(x[at], std::nanf(""));
      EXPECT_TRUE(has_nan(x.data(), count)) << at << " of " << count;
      x[at] = before;
    }
  }
  EXPECT_FALSE(has_nan(nullptr, 0));
}

}  // namespace
}  // namespace quarry::kernels
