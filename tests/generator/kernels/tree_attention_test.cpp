#include "generator/kernels/tree_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/core/parallel_for.h"
#include "generator/kernels/attention.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/tree_attention_bfloat16.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

class TreeAttention : public testing::TestWithParam<CpuIsa> {
 protected:
  TreeAttention() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, TreeAttention, testing::ValuesIn(runnable_isas()), isa_name);

TreeAttentionShape small_shape() {
  TreeAttentionShape shape;
  shape.num_heads = 6;
  shape.num_kv_heads = 2;
  shape.head_dim = 20;
  shape.scale = 0.3f;
  return shape;
}

// Two trees: one with branches of branches, then a lone sequence.
std::vector<TreeSegment> forest() {
  return {{0, 31, -1}, {31, 35, 0}, {35, 36, 1}, {36, 63, 1},
          {63, 70, 0}, {70, 71, 0}, {71, 90, 5}, {90, 121, -1}};
}

std::vector<int64_t> path_of(const std::vector<TreeSegment>& segments, int64_t index) {
  std::vector<int64_t> rows;
  if (segments[index].parent >= 0) rows = path_of(segments, segments[index].parent);
  for (int64_t row = segments[index].begin; row < segments[index].end; ++row) rows.push_back(row);
  return rows;
}

struct Problem {
  TreeAttentionShape shape = small_shape();
  std::vector<TreeSegment> segments = forest();
  int64_t num_rows = segments.back().end;
  int64_t q_width = shape.num_heads * shape.head_dim;
  int64_t width = q_width + 2 * shape.num_kv_heads * shape.head_dim;
};

TEST_P(TreeAttention, EveryPathIsWhatAttentionGivesItAlone) {
  const Problem p;
  const auto qkv = random_floats(p.num_rows * p.width, 1);
  std::vector<float> out(static_cast<size_t>(p.num_rows * p.q_width));
  tree_attention(p.shape, p.segments, qkv.data(), out.data());
  for (int64_t index = 0; index < static_cast<int64_t>(p.segments.size()); ++index) {
    const std::vector<int64_t> rows = path_of(p.segments, index);
    std::vector<float> path;
    for (const int64_t row : rows) {
      path.insert(path.end(), qkv.begin() + row * p.width, qkv.begin() + (row + 1) * p.width);
    }
    AttentionShape shape;
    shape.num_queries = shape.num_keys = static_cast<int64_t>(rows.size());
    shape.num_heads = p.shape.num_heads;
    shape.num_kv_heads = p.shape.num_kv_heads;
    shape.head_dim = p.shape.head_dim;
    shape.ldq = shape.ldk = p.width;
    shape.ldo = p.q_width;
    shape.scale = p.shape.scale;
    std::vector<float> alone(rows.size() * static_cast<size_t>(p.q_width));
    attention(shape, path.data(), path.data() + p.q_width,
              path.data() + p.q_width + p.shape.num_kv_heads * p.shape.head_dim, alone.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int64_t d = 0; d < p.q_width; ++d) {
        ASSERT_EQ(out[static_cast<size_t>(rows[i] * p.q_width + d)],
                  alone[i * static_cast<size_t>(p.q_width) + static_cast<size_t>(d)])
            << "row " << rows[i];
      }
    }
  }
}

// sum(out * gradient) in double precision.
double weighted_output(const Problem& p, const std::vector<double>& qkv,
                       const std::vector<float>& gradient) {
  const int64_t dim = p.shape.head_dim;
  const int64_t group = p.shape.num_heads / p.shape.num_kv_heads;
  double total = 0.0;
  for (int64_t index = 0; index < static_cast<int64_t>(p.segments.size()); ++index) {
    const TreeSegment& segment = p.segments[static_cast<size_t>(index)];
    const std::vector<int64_t> rows = path_of(p.segments, index);
    for (int64_t row = segment.begin; row < segment.end; ++row) {
      const size_t visible = rows.size() - static_cast<size_t>(segment.end - row) + 1;
      for (int64_t head = 0; head < p.shape.num_heads; ++head) {
        const int64_t key = p.q_width + head / group * dim;
        const int64_t value = key + p.shape.num_kv_heads * dim;
        std::vector<double> weights(visible);
        double sum = 0.0;
        for (size_t j = 0; j < visible; ++j) {
          double score = 0.0;
          for (int64_t d = 0; d < dim; ++d) {
            score += qkv[static_cast<size_t>(row * p.width + head * dim + d)] *
                     qkv[static_cast<size_t>(rows[j] * p.width + key + d)];
          }
          score *= double{p.shape.scale};
          if (p.shape.relative_bias.table != nullptr) {
            const int64_t reach = p.shape.relative_bias.reach;
            const auto places = static_cast<int64_t>(visible - 1 - j);
            score += double{p.shape.relative_bias
                                .table[head * (2 * reach + 1) + reach - std::min(places, reach)]};
          }
          weights[j] = std::exp(score);
          sum += weights[j];
        }
        for (size_t j = 0; j < visible; ++j) {
          for (int64_t d = 0; d < dim; ++d) {
            total += weights[j] / sum * qkv[static_cast<size_t>(rows[j] * p.width + value + d)] *
                     gradient[static_cast<size_t>(row * p.q_width + head * dim + d)];
          }
        }
      }
    }
  }
  return total;
}

void expect_gradient(const Problem& p) {
  const auto qkv = random_floats(p.num_rows * p.width, 2);
  const auto gradient = random_floats(p.num_rows * p.q_width, 3);
  std::vector<float> dqkv(qkv.size(), 99.0f);
  tree_attention_backward(p.shape, p.segments, qkv.data(), gradient.data(), dqkv.data());
  const std::vector<double> exact(qkv.begin(), qkv.end());
  for (uint32_t direction = 0; direction < 6; ++direction) {
    // Along queries, keys and values alone, then along all of them.
    const auto step = random_floats(p.num_rows * p.width, 10 + direction);
    const int64_t bounds[] = {0, p.q_width, (p.q_width + p.width) / 2, p.width};
    double predicted = 0.0;
    std::vector<double> forward = exact;
    std::vector<double> back = exact;
    const double h = 1e-5;
    for (size_t i = 0; i < exact.size(); ++i) {
      const int64_t column = static_cast<int64_t>(i) % p.width;
      if (direction < 3 && (column < bounds[direction] || column >= bounds[direction + 1])) {
        continue;
      }
      predicted += double{dqkv[i]} * step[i];
      forward[i] += h * step[i];
      back[i] -= h * step[i];
    }
    const double measured =
        (weighted_output(p, forward, gradient) - weighted_output(p, back, gradient)) / (2.0 * h);
    EXPECT_NEAR(predicted, measured, 1e-4 * (1.0 + std::fabs(measured))) << direction;
  }
}

TEST_P(TreeAttention, BackwardMatchesFiniteDifferencesInDouble) { expect_gradient(Problem()); }

TEST_P(TreeAttention, BackwardWithBiasesByDistanceMatchesFiniteDifferencesInDouble) {
  Problem p;
  const auto table = random_floats(p.shape.num_heads * (2 * 9 + 1), 4, 2.0f);
  p.shape.relative_bias = {table.data(), 9};
  expect_gradient(p);
}

TEST_P(TreeAttention, ThreadsDoNotChangeTheGradient) {
  const Problem p;
  const auto qkv = random_floats(p.num_rows * p.width, 2);
  const auto gradient = random_floats(p.num_rows * p.q_width, 3);
  std::vector<float> one(qkv.size());
  std::vector<float> many(qkv.size());
  const int threads = num_threads();
  set_num_threads(1);
  tree_attention_backward(p.shape, p.segments, qkv.data(), gradient.data(), one.data());
  set_num_threads(4);
  tree_attention_backward(p.shape, p.segments, qkv.data(), gradient.data(), many.data());
  set_num_threads(threads);
  EXPECT_EQ(one, many);
}

std::vector<uint16_t> rounded(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  float_to_bfloat16(values.data(), static_cast<int64_t>(values.size()), bits.data());
  return bits;
}

std::vector<float> widened(const std::vector<uint16_t>& bits) {
  std::vector<float> values(bits.size());
  bfloat16_to_float(bits.data(), static_cast<int64_t>(bits.size()), values.data());
  return values;
}

// Largest difference over the largest magnitude of `wanted`.
double relative_error(const std::vector<float>& actual, const std::vector<float>& wanted) {
  double most = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    most = std::max(most, std::fabs(double{actual[i]} - wanted[i]));
    size = std::max(size, std::fabs(double{wanted[i]}));
    if (std::isnan(actual[i])) return 1e30;
  }
  return most / size;
}

TEST_P(TreeAttention, BFloat16IsNearFloat) {
  const Problem p;
  const auto qkv = rounded(random_floats(p.num_rows * p.width, 1));
  const auto gradient = random_floats(p.num_rows * p.q_width, 3);
  const auto wide = widened(qkv);
  std::vector<float> out(gradient.size(), 99.0f);
  std::vector<float> wanted_out(gradient.size());
  tree_attention_bfloat16(p.shape, p.segments, qkv.data(), out.data());
  tree_attention(p.shape, p.segments, wide.data(), wanted_out.data());
  EXPECT_LT(relative_error(out, wanted_out), 4e-3);
  std::vector<float> dqkv(qkv.size(), 99.0f);
  std::vector<float> wanted(qkv.size());
  tree_attention_bfloat16_backward(p.shape, p.segments, qkv.data(), gradient.data(), dqkv.data());
  tree_attention_backward(p.shape, p.segments, wide.data(), gradient.data(), wanted.data());
  EXPECT_LT(relative_error(dqkv, wanted), 8e-3);
}

TEST_P(TreeAttention, BFloat16EveryPathIsWhatItGivesAlone) {
  const Problem p;
  const auto qkv = rounded(random_floats(p.num_rows * p.width, 1));
  std::vector<float> out(static_cast<size_t>(p.num_rows * p.q_width));
  tree_attention_bfloat16(p.shape, p.segments, qkv.data(), out.data());
  for (int64_t index = 0; index < static_cast<int64_t>(p.segments.size()); ++index) {
    const std::vector<int64_t> rows = path_of(p.segments, index);
    std::vector<uint16_t> path;
    for (const int64_t row : rows) {
      path.insert(path.end(), qkv.begin() + row * p.width, qkv.begin() + (row + 1) * p.width);
    }
    std::vector<float> alone(rows.size() * static_cast<size_t>(p.q_width));
    tree_attention_bfloat16(p.shape, {{0, static_cast<int64_t>(rows.size()), -1}}, path.data(),
                            alone.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int64_t d = 0; d < p.q_width; ++d) {
        ASSERT_EQ(out[static_cast<size_t>(rows[i] * p.q_width + d)],
                  alone[i * static_cast<size_t>(p.q_width) + static_cast<size_t>(d)])
            << "row " << rows[i];
      }
    }
  }
}

TEST_P(TreeAttention, BFloat16RowsWithoutAGradientGiveNone) {
  const Problem p;
  const auto qkv = rounded(random_floats(p.num_rows * p.width, 1));
  auto gradient = random_floats(p.num_rows * p.q_width, 3);
  const int64_t first = 30;  // of 60 rows without
  std::fill_n(gradient.begin() + first * p.q_width, 60 * p.q_width, 0.0f);
  std::vector<float> dqkv(qkv.size(), 99.0f);
  std::vector<float> wanted(qkv.size());
  tree_attention_bfloat16_backward(p.shape, p.segments, qkv.data(), gradient.data(), dqkv.data());
  tree_attention_backward(p.shape, p.segments, widened(qkv).data(), gradient.data(), wanted.data());
  EXPECT_LT(relative_error(dqkv, wanted), 8e-3);
  for (int64_t row = first; row < first + 60; ++row) {
    for (int64_t d = 0; d < p.q_width; ++d) {
      ASSERT_EQ(dqkv[static_cast<size_t>(row * p.width + d)], 0.0f) << row;
    }
  }
}

// What is left in memory from a pass that went wrong stays there.
TEST_P(TreeAttention, BFloat16NanDoesNotOutliveItsPass) {
  Problem p;
  const auto qkv = rounded(random_floats(p.num_rows * p.width, 1));
  const auto gradient = random_floats(p.num_rows * p.q_width, 3);
  std::vector<float> clean(qkv.size());
  tree_attention_bfloat16_backward(p.shape, p.segments, qkv.data(), gradient.data(), clean.data());
  std::vector<float> dqkv(qkv.size());
  const std::vector<uint16_t> bad(qkv.size(), 0x7fc0);
  tree_attention_bfloat16_backward(p.shape, p.segments, bad.data(), gradient.data(), dqkv.data());
  EXPECT_TRUE(std::isnan(dqkv[0]));
  tree_attention_bfloat16_backward(p.shape, p.segments, qkv.data(), gradient.data(), dqkv.data());
  EXPECT_EQ(dqkv, clean);
}

TEST_P(TreeAttention, BFloat16ThreadsDoNotChangeTheGradient) {
  const Problem p;
  const auto qkv = rounded(random_floats(p.num_rows * p.width, 2));
  const auto gradient = random_floats(p.num_rows * p.q_width, 3);
  std::vector<float> one(qkv.size());
  std::vector<float> many(qkv.size());
  const int threads = num_threads();
  set_num_threads(1);
  tree_attention_bfloat16_backward(p.shape, p.segments, qkv.data(), gradient.data(), one.data());
  set_num_threads(4);
  tree_attention_bfloat16_backward(p.shape, p.segments, qkv.data(), gradient.data(), many.data());
  set_num_threads(threads);
  EXPECT_EQ(one, many);
}

}  // namespace
}  // namespace quarry::kernels
