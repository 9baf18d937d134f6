#include "generator/nn/cross_entropy.h"

#include <algorithm>
#include <cstring>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/gemm.h"

namespace quarry::nn {
namespace {

// Rows whose logits exist at once: with a vocabulary of 49,152 they take 12 MB.
constexpr int64_t kRowsAtOnce = 64;

// Turns one row of logits into losses, and into its gradient.
void run_row(float* logits, int64_t vocab_size, const std::vector<TokenTree::Target>& targets,
             const std::vector<size_t>& of_row, std::vector<float>& losses) {
  std::vector<float> target_logits;
  for (const size_t index : of_row) target_logits.push_back(logits[targets[index].token]);
  const float log_sum = kernels::softmax(logits, vocab_size);
  float weight = 0.0f;
  for (size_t i = 0; i < of_row.size(); ++i) {
    losses[of_row[i]] = log_sum - target_logits[i];
    weight += targets[of_row[i]].weight;
  }
  for (int64_t token = 0; token < vocab_size; ++token) logits[token] *= weight;
  for (const size_t index : of_row) logits[targets[index].token] -= targets[index].weight;
}

// out [V, E] += logits [rows, V]^T * hidden [rows, E].
void add_head_gradient(const std::vector<float>& logits, const float* hidden, int64_t rows,
                       int64_t hidden_size, std::vector<float>& out) {
  kernels::GemmShape shape;
  shape.m = static_cast<int64_t>(out.size()) / hidden_size;
  shape.n = hidden_size;
  shape.k = rows;
  shape.a_row_stride = 1;
  shape.a_column_stride = shape.m;
  shape.ldb = shape.ldc = hidden_size;
  shape.accumulate = true;
  kernels::gemm(shape, logits.data(), hidden, out.data());
}

}  // namespace

std::vector<float> cross_entropy(const Tensor& hidden, const kernels::PackedMatrix& head,
                                 const std::vector<float>& bias, const std::vector<int64_t>& rows,
                                 const std::vector<TokenTree::Target>& targets,
                                 const CrossEntropyGradients& gradients) {
  const int64_t num_rows = hidden.size(0);
  const int64_t hidden_size = hidden.size(1);
  const int64_t vocab_size = head.n();
  QUARRY_DCHECK(num_rows == static_cast<int64_t>(rows.size()) && hidden_size == head.k());
  QUARRY_DCHECK(bias.empty() || static_cast<int64_t>(bias.size()) == vocab_size);
  std::vector<std::vector<size_t>> by_row(rows.size());
  for (size_t index = 0; index < targets.size(); ++index) {
    const auto at = std::lower_bound(rows.begin(), rows.end(), targets[index].row);
    QUARRY_DCHECK(at != rows.end() && *at == targets[index].row);
    by_row[static_cast<size_t>(at - rows.begin())].push_back(index);
  }
  std::vector<float> losses(targets.size());
  std::vector<float> logits(static_cast<size_t>(std::min(num_rows, kRowsAtOnce) * vocab_size));
  for (int64_t first = 0; first < num_rows; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, num_rows - first);
    kernels::matmul(head, row_data(hidden, first), count, hidden_size, logits.data(), vocab_size);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* values = logits.data() + row * vocab_size;
        if (!bias.empty()) kernels::add(values, bias.data(), vocab_size, values);
        run_row(values, vocab_size, targets, by_row[static_cast<size_t>(first + row)], losses);
      }
    });
    if (gradients.hidden == nullptr) continue;
    kernels::matmul_transposed(head, logits.data(), count, vocab_size,
                               mutable_row_data(*gradients.hidden, first), hidden_size);
    if (gradients.head == nullptr) continue;
    add_head_gradient(logits, row_data(hidden, first), count, hidden_size, *gradients.head);
  }
  return losses;
}

}  // namespace quarry::nn
