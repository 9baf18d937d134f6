#include "generator/kernels/attention_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
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

// Rows of queries, keys and values [rows, width] in double precision.
struct Rows {
  const std::vector<double>& values;
  int64_t stride;
  int64_t first;  // element
  double at(int64_t row, int64_t column) const {
    return values[static_cast<size_t>(first + row * stride + column)];
  }
};

// sum(weights * attention) of n queries over m keys.
double weighted_attention(const BidirectionalShape& shape, int64_t n, int64_t m, const Rows& q,
                          const Rows& k, const Rows& v, const float* weights) {
  const int64_t reach = shape.relative_bias.reach;
  double total = 0.0;
  for (int64_t head = 0; head < shape.num_heads; ++head) {
    const int64_t column = head * shape.head_dim;
    for (int64_t i = 0; i < n; ++i) {
      std::vector<double> p;
      double sum = 0.0;
      for (int64_t j = 0; j < m; ++j) {
        double score = 0.0;
        for (int64_t d = column; d < column + shape.head_dim; ++d) score += q.at(i, d) * k.at(j, d);
        score *= double{shape.scale};
        if (shape.relative_bias.table != nullptr) {
          const int64_t place = std::min(std::max(j - i, -reach), reach) + reach;
          score += double{shape.relative_bias.table[head * (2 * reach + 1) + place]};
        }
        p.push_back(std::exp(score));
        sum += p.back();
      }
      for (int64_t d = column; d < column + shape.head_dim; ++d) {
        double mixed = 0.0;
        for (int64_t j = 0; j < m; ++j) mixed += p[static_cast<size_t>(j)] / sum * v.at(j, d);
        total += mixed * double{weights[i * shape.num_heads * shape.head_dim + d]};
      }
    }
  }
  return total;
}

// Every seventh of `found` is the derivative of `function` by that input.
template <typename Function>
void expect_gradient(const std::vector<float>& found, std::vector<double>& inputs,
                     const Function& function) {
  const double step = 1e-5;
  for (size_t i = 0; i < inputs.size(); i += 7) {
    const double before = inputs[i];
    inputs[i] = before + step;
    const double up = function();
    inputs[i] = before - step;
    const double down = function();
    inputs[i] = before;
    const double wanted = (up - down) / (2.0 * step);
    ASSERT_NEAR(found[i], wanted, 2e-6 * (1.0 + std::fabs(wanted))) << i;
  }
}

BidirectionalShape small_shape() {
  BidirectionalShape shape;
  shape.num_heads = 2;
  shape.head_dim = 5;
  shape.scale = 0.4f;
  return shape;
}

TEST_P(BidirectionalBackward, MatchesFiniteDifferencesInDouble) {
  BidirectionalShape shape = small_shape();
  const std::vector<int64_t> starts = {0, 1, 8, 8, 25};  // a lone row, an empty text, odd sizes
  const int64_t width = shape.num_heads * shape.head_dim;
  const auto qkv = random_floats(25 * 3 * width, 1);
  const auto gradient = random_floats(25 * width, 2);
  const auto biases = random_floats(2 * (2 * 4 + 1), 3);
  for (const float* table : {static_cast<const float*>(nullptr), biases.data()}) {
    shape.relative_bias = {table, 4};
    std::vector<float> found(qkv.size(), 99.0f);
    bidirectional_attention_backward(shape, starts, qkv.data(), gradient.data(), found.data());
    std::vector<double> exact(qkv.begin(), qkv.end());
    expect_gradient(found, exact, [&] {
      double total = 0.0;
      for (size_t text = 0; text + 1 < starts.size(); ++text) {
        const int64_t first = starts[text] * 3 * width;
        const int64_t n = starts[text + 1] - starts[text];
        total += weighted_attention(
            shape, n, n, {exact, 3 * width, first}, {exact, 3 * width, first + width},
            {exact, 3 * width, first + 2 * width}, gradient.data() + starts[text] * width);
      }
      return total;
    });
  }
}

TEST_P(BidirectionalBackward, OfAnotherTextMatchesFiniteDifferencesInDouble) {
  const BidirectionalShape shape = small_shape();
  const int64_t width = shape.num_heads * shape.head_dim;
  for (const auto& [n, m] : {std::pair<int64_t, int64_t>{1, 1}, {9, 3}, {3, 17}}) {
    const auto q = random_floats(n * width, 1);
    const auto kv = random_floats(m * 2 * width, 2);
    const auto gradient = random_floats(n * width, 3);
    std::vector<float> dq(q.size(), 99.0f);
    std::vector<float> dkv(kv.size(), 99.0f);
    cross_attention_backward(shape, n, m, q.data(), kv.data(), gradient.data(), dq.data(),
                             dkv.data());
    std::vector<double> exact_q(q.begin(), q.end());
    std::vector<double> exact_kv(kv.begin(), kv.end());
    const auto total = [&, n = n, m = m] {
      return weighted_attention(shape, n, m, {exact_q, width, 0}, {exact_kv, 2 * width, 0},
                                {exact_kv, 2 * width, width}, gradient.data());
    };
    expect_gradient(dq, exact_q, total);
    expect_gradient(dkv, exact_kv, total);
  }
}

}  // namespace
}  // namespace quarry::kernels
