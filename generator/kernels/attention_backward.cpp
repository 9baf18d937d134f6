#include "generator/kernels/attention_backward.h"

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

// One head of one text of n rows. Pointers stand at its first row.
struct HeadTask {
  int64_t n;
  int64_t dim;
  int64_t row_stride;  // of qkv and its gradient
  int64_t out_stride;  // of the result's gradient
  float scale;
  const float* query;
  const float* key;
  const float* value;
  const float* gradient;
  float* query_gradient;
  float* key_gradient;
  float* value_gradient;
};

// C [n, D] = A [n, n] B [n, D], or A^T B.
void multiply(const HeadTask& task, const std::vector<float>& a, bool transposed, const float* b,
              int64_t ldb, float* c) {
  GemmShape shape;
  shape.m = shape.k = task.n;
  shape.n = task.dim;
  shape.a_row_stride = transposed ? 1 : task.n;
  shape.a_column_stride = transposed ? task.n : 1;
  shape.ldb = ldb;
  shape.ldc = task.row_stride;
  gemm_serial(shape, a.data(), b, c);
}

// With S = scale Q K^T, P = softmax(S) and G the gradient of P V:
//   dV = P^T G   dP = G V^T   dQ = dS K   dK = dS^T Q   (dS carries the scale)
void run_head(const HeadTask& task) {
  thread_local std::vector<float> transposed;
  thread_local std::vector<float> p;   // [n, n]
  thread_local std::vector<float> dp;  // [n, n]
  const int64_t n = task.n;
  p.resize(static_cast<size_t>(n * n));
  dp.resize(p.size());
  GemmShape scores;  // [n, n] = rows [n, D] * transposed [D, n]
  scores.m = scores.n = n;
  scores.k = task.dim;
  scores.a_row_stride = task.row_stride;
  scores.ldb = scores.ldc = n;
  transpose(task.key, task.row_stride, n, task.dim, transposed);
  gemm_serial(scores, task.query, transposed.data(), p.data());
  scores.a_row_stride = task.out_stride;
  transpose(task.value, task.row_stride, n, task.dim, transposed);
  gemm_serial(scores, task.gradient, transposed.data(), dp.data());
  for (int64_t i = 0; i < n; ++i) {
    float* p_row = p.data() + i * n;
    float* dp_row = dp.data() + i * n;
    for (int64_t j = 0; j < n; ++j) p_row[j] *= task.scale;
    softmax(p_row, n);
    softmax_backward(p_row, dp_row, n, task.scale, dp_row);
  }
  multiply(task, p, true, task.gradient, task.out_stride, task.value_gradient);
  multiply(task, dp, false, task.key, task.row_stride, task.query_gradient);
  multiply(task, dp, true, task.query, task.row_stride, task.key_gradient);
}

}  // namespace

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
      HeadTask task = {};
      task.n = starts[text + 1] - starts[text];
      if (task.n == 0) continue;
      task.dim = shape.head_dim;
      task.row_stride = row_stride;
      task.out_stride = width;
      task.scale = shape.scale;
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

}  // namespace quarry::kernels
