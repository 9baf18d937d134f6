#include "generator/kernels/attention_backward.h"

#include <gtest/gtest.h>

#include <cmath>

#include "generator/kernels/attention.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

class BidirectionalBackward : public testing::TestWithParam<CpuIsa> {
 protected:
  BidirectionalBackward() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};
INSTANTIATE_TEST_SUITE_P(Isa, BidirectionalBackward, testing::ValuesIn(runnable_isas()),
                         [](const auto& info) { return cpu_isa_name(info.param); });

// sum(weights * attention) of each text in double precision.
double weighted_attention(const std::vector<double>& qkv, const std::vector<float>& weights,
                          const std::vector<int64_t>& starts, const BidirectionalShape& shape) {
  const int64_t width = shape.num_heads * shape.head_dim;
  double total = 0.0;
  for (size_t text = 0; text + 1 < starts.size(); ++text) {
    for (int64_t head = 0; head < shape.num_heads; ++head) {
      const int64_t column = head * shape.head_dim;
      const auto at = [&](int64_t row, int64_t part, int64_t d) {
        return qkv[static_cast<size_t>(row * 3 * width + part * width + column + d)];
      };
      for (int64_t i = starts[text]; i < starts[text + 1]; ++i) {
        std::vector<double> p;
        double sum = 0.0;
        for (int64_t j = starts[text]; j < starts[text + 1]; ++j) {
          double score = 0.0;
          for (int64_t d = 0; d < shape.head_dim; ++d) score += at(i, 0, d) * at(j, 1, d);
          p.push_back(std::exp(score * double{shape.scale}));
          sum += p.back();
        }
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          double mixed = 0.0;
          for (int64_t j = starts[text]; j < starts[text + 1]; ++j) {
            mixed += p[static_cast<size_t>(j - starts[text])] / sum * at(j, 2, d);
          }
          total += mixed * double{weights[static_cast<size_t>(i * width + column + d)]};
        }
      }
    }
  }
  return total;
}

TEST_P(BidirectionalBackward, MatchesFiniteDifferencesInDouble) {
  BidirectionalShape shape;
  shape.num_heads = 2;
  shape.head_dim = 5;
  shape.scale = 0.4f;
  const std::vector<int64_t> starts = {0, 1, 8, 8, 25};  // a lone row, an empty text, odd sizes
  const int64_t width = shape.num_heads * shape.head_dim;
  const auto qkv = random_floats(25 * 3 * width, 1);
  const auto gradient = random_floats(25 * width, 2);
  std::vector<float> found(qkv.size(), 99.0f);
  bidirectional_attention_backward(shape, starts, qkv.data(), gradient.data(), found.data());
  std::vector<double> exact(qkv.begin(), qkv.end());
  const double step = 1e-5;
  for (size_t i = 0; i < exact.size(); i += 7) {
    const double before = exact[i];
    exact[i] = before + step;
    const double up = weighted_attention(exact, gradient, starts, shape);
    exact[i] = before - step;
    const double down = weighted_attention(exact, gradient, starts, shape);
    exact[i] = before;
    const double wanted = (up - down) / (2.0 * step);
    ASSERT_NEAR(found[i], wanted, 2e-6 * (1.0 + std::fabs(wanted))) << i;
  }
}

}  // namespace
}  // namespace quarry::kernels
