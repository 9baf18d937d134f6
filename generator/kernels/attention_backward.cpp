#include "generator/kernels/attention_backward.h"

#include <algorithm>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/gemm.h"

namespace quarry::kernels {
namespace {

// to [dim, rows] = from [rows, dim]^T.
void transpose(const float* from, int64_t row_stride, int64_t rows, int64_t dim,
               std::vector<float>& to) {
  to.resize(static_cast<size_t>(rows * dim));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t d = 0; d < dim; ++d) to[d * rows + i] = from[i * row_stride + d];
  }
}

// One head of n queries and m keys. Pointers stand at the first row.
struct HeadTask {
  int64_t n;
  int64_t m;
  int64_t dim;
  int64_t query_stride;  // of queries and their gradients
  int64_t key_stride;    // of keys, values and their gradients
  int64_t out_stride;    // of the result's gradient
  float scale;
  RelativeBias relative_bias;
  int64_t head;
  const float* query;
  const float* key;
  const float* value;
  const float* gradient;
  float* query_gradient;
  float* key_gradient;
  float* value_gradient;
};

// C [n, D] = A [n, m] B [m, D].
void multiply(const HeadTask& task, const std::vector<float>& a, const float* b, float* c) {
  GemmShape shape;
  shape.m = task.n;
  shape.k = task.m;
  shape.n = task.dim;
  shape.a_row_stride = task.m;
  shape.ldb = task.key_stride;
  shape.ldc = task.query_stride;
  gemm_serial(shape, a.data(), b, c);
}

// C [m, D] = A [n, m]^T B [n, D].
void multiply_transposed(const HeadTask& task, const std::vector<float>& a, const float* b,
                         int64_t ldb, float* c) {
  GemmShape shape;
  shape.m = task.m;
  shape.k = task.n;
  shape.n = task.dim;
  shape.a_row_stride = 1;
  shape.a_column_stride = task.m;
  shape.ldb = ldb;
  shape.ldc = task.key_stride;
  gemm_serial(shape, a.data(), b, c);
}

// With S = scale Q K^T + bias, P = softmax(S) and G the gradient of P V:
//   dV = P^T G   dP = G V^T   dQ = dS K   dK = dS^T Q   (dS carries the scale)
void run_head(const HeadTask& task) {
  thread_local std::vector<float> transposed;
  thread_local std::vector<float> p;   // [n, m]
  thread_local std::vector<float> dp;  // [n, m]
  const int64_t m = task.m;
  p.resize(static_cast<size_t>(task.n * m));
  dp.resize(p.size());
  GemmShape scores;  // [n, m] = rows [n, D] * transposed [D, m]
  scores.m = task.n;
  scores.n = m;
  scores.k = task.dim;
  scores.a_row_stride = task.query_stride;
  scores.ldb = scores.ldc = m;
  transpose(task.key, task.key_stride, m, task.dim, transposed);
  gemm_serial(scores, task.query, transposed.data(), p.data());
  scores.a_row_stride = task.out_stride;
  transpose(task.value, task.key_stride, m, task.dim, transposed);
  gemm_serial(scores, task.gradient, transposed.data(), dp.data());
  for (int64_t i = 0; i < task.n; ++i) {
    float* p_row = p.data() + i * m;
    float* dp_row = dp.data() + i * m;
    for (int64_t j = 0; j < m; ++j) p_row[j] *= task.scale;
    if (task.relative_bias.table != nullptr) {
      add_relative_bias(task.relative_bias, task.head, 1.0f, -i, m, p_row);
    }
    softmax(p_row, m);
    softmax_backward(p_row, dp_row, m, task.scale, dp_row);
  }
  multiply_transposed(task, p, task.gradient, task.out_stride, task.value_gradient);
  multiply(task, dp, task.key, task.query_gradient);
  multiply_transposed(task, dp, task.query, task.query_stride, task.key_gradient);
}

HeadTask base_task(const BidirectionalShape& shape, int64_t head) {
  HeadTask task = {};
  task.dim = shape.head_dim;
  task.out_stride = shape.num_heads * shape.head_dim;
  task.scale = shape.scale;
  task.relative_bias = shape.relative_bias;
  task.head = head;
  return task;
}

}  // namespace

void add_relative_bias(const RelativeBias& bias, int64_t head, float factor, int64_t first,
                       int64_t count, float* scores) {
  const float* middle = bias.table + head * (2 * bias.reach + 1) + bias.reach;
  for (int64_t i = 0; i < count; ++i) {
    scores[i] += factor * middle[std::clamp(first + i, -bias.reach, bias.reach)];
  }
}

void bidirectional_attention_backward(const BidirectionalShape& shape,
                                      const std::vector<int64_t>& starts, const float* qkv,
                                      const float* gradient, float* dqkv) {
  const int64_t width = shape.num_heads * shape.head_dim;
  const int64_t row_stride = 3 * width;
  const auto num_texts = static_cast<int64_t>(starts.size()) - 1;
  parallel_for(num_texts * shape.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const auto text = static_cast<size_t>(unit / shape.num_heads);
      const int64_t column = unit % shape.num_heads * shape.head_dim;
      HeadTask task = base_task(shape, unit % shape.num_heads);
      task.n = task.m = starts[text + 1] - starts[text];
      if (task.n == 0) continue;
      task.query_stride = task.key_stride = row_stride;
      task.query = qkv + starts[text] * row_stride + column;
      task.key = task.query + width;
      task.value = task.key + width;
      task.gradient = gradient + starts[text] * width + column;
      task.query_gradient = dqkv + starts[text] * row_stride + column;
      task.key_gradient = task.query_gradient + width;
      task.value_gradient = task.key_gradient + width;
      run_head(task);
    }
  });
}

void cross_attention_backward(const BidirectionalShape& shape, int64_t num_queries,
                              int64_t num_keys, const float* q, const float* kv,
                              const float* gradient, float* dq, float* dkv) {
  const int64_t width = shape.num_heads * shape.head_dim;
  QUARRY_DCHECK(shape.relative_bias.table == nullptr);
  parallel_for(shape.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      const int64_t column = head * shape.head_dim;
      HeadTask task = base_task(shape, head);
      task.n = num_queries;
      task.m = num_keys;
      task.query_stride = width;
      task.key_stride = 2 * width;
      task.query = q + column;
      task.key = kv + column;
      task.value = task.key + width;
      task.gradient = gradient + column;
      task.query_gradient = dq + column;
      task.key_gradient = dkv + column;
      task.value_gradient = task.key_gradient + width;
      run_head(task);
    }
  });
}

}  // namespace quarry::kernels
