#pragma once

#include <cstdint>

namespace quarry::kernels {

// C[m, n] = A[m, k] B[k, n]  or  C += A B, all float32. B and C are row-major with row strides ldb
// and ldc; A has any strides, so that A^T costs nothing. Meant for operands that stay in cache: the
// low-rank products of an adapter, one head of an attention. The sum over k is one chain of
// multiply-adds per element: a result does not depend on m, n or the threads.
struct GemmShape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t a_row_stride = 0;     // floats between A[i, p] and A[i + 1, p]
  int64_t a_column_stride = 1;  // floats between A[i, p] and A[i, p + 1]
  int64_t ldb = 0;
  int64_t ldc = 0;
  bool accumulate = false;  // C += A B
};

// On the calling thread. C must not overlap A or B.
void gemm_serial(const GemmShape& shape, const float* a, const float* b, float* c);
// The same result, shared out over parallel_for's threads.
void gemm(const GemmShape& shape, const float* a, const float* b, float* c);

}  // namespace quarry::kernels
