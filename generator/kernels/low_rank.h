#pragma once

#include <cstdint>

namespace quarry::kernels {

// The products of a low-rank update y += B (A x) with operands rounded to bfloat16 and sums in
// float32. `weights` [rank, width] is row-major float32: A, or B^T. All run on parallel_for's
// threads, whose number does not change a result; a row's u and y do not depend on the other rows.

// Rows of a bfloat16 matrix. REQUIRES: stride and width are even, data is aligned to four bytes.
struct BFloat16Rows {
  const uint16_t* data = nullptr;
  int64_t stride = 0;  // elements between rows
  int64_t count = 0;
  int64_t width = 0;
};

// u [count, rank] = x weights^T
void low_rank_project(const BFloat16Rows& x, const float* weights, int64_t rank, float* u);
// y [count, width] += u [count, rank] weights, with row stride ldy.
void low_rank_expand(const float* u, int64_t count, int64_t rank, const float* weights,
                     int64_t width, float* y, int64_t ldy);
// sums [rank, width] += u^T x
void low_rank_outer(const float* u, int64_t rank, const BFloat16Rows& x, float* sums);

}  // namespace quarry::kernels
