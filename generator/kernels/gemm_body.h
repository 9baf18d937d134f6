#pragma once

#include "generator/kernels/gemm_twins.h"

// gemm_serial on a vector type V of vec_*.h, and on operands that a vector type W multiplies
// (gemm_bfloat16.h). Included once by each gemm*.cpp.
namespace quarry::kernels {
namespace {

// kRows x (kVectors * V::kWidth) elements of C at row `row`, column `column`. `tail` < V::kWidth
// columns of the last vector are real (0: all).
template <typename V, typename W, int kRows, int kVectors, typename A, typename B>
inline void gemm_tile(const GemmShape& s, const A* a, const B* b, float* c, int64_t tail) {
  const auto is_partial = [tail](int i) { return tail != 0 && i == kVectors - 1; };
  V total[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      const float* from = c + r * s.ldc + i * V::kWidth;
      total[r][i] = V::zero();
      if (s.accumulate) total[r][i] = is_partial(i) ? V::load_first(from, tail) : V::load(from);
    }
  }
  for (int64_t p = 0; p < s.k; ++p) {
    W values[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      const B* from = b + p * s.ldb + i * V::kWidth;
      values[i] = is_partial(i) ? W::load_first(from, tail) : W::load(from);
    }
    for (int r = 0; r < kRows; ++r) {
      const W factor = W::set1(a[r * s.a_row_stride + p * s.a_column_stride]);
      for (int i = 0; i < kVectors; ++i) total[r][i] = fma(values[i], factor, total[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      float* out = c + r * s.ldc + i * V::kWidth;
      if (is_partial(i)) {
        total[r][i].store_first(out, tail);
      } else {
        total[r][i].store(out);
      }
    }
  }
}

template <typename V, typename W, int kRows, int kVectors, typename A, typename B>
void gemm_columns(const GemmShape& s, const A* a, const B* b, float* c, int64_t tail) {
  int64_t row = 0;
  const auto at = [&](int64_t r) { return a + r * s.a_row_stride; };
  for (; row + kRows <= s.m; row += kRows) {
    gemm_tile<V, W, kRows, kVectors>(s, at(row), b, c + row * s.ldc, tail);
  }
  for (; row + 2 <= s.m; row += 2) {
    gemm_tile<V, W, 2, kVectors>(s, at(row), b, c + row * s.ldc, tail);
  }
  if (row < s.m) gemm_tile<V, W, 1, kVectors>(s, at(row), b, c + row * s.ldc, tail);
}

// kRows x kVectors: the register tile.
template <typename V, typename W, int kRows, int kVectors, typename A, typename B>
void gemm_body(const GemmShape& s, const A* a, const B* b, float* c) {
  constexpr int64_t kColumns = kVectors * V::kWidth;
  int64_t column = 0;
  for (; column + kColumns <= s.n; column += kColumns) {
    gemm_columns<V, W, kRows, kVectors>(s, a, b + column, c + column, 0);
  }
  for (; column + V::kWidth <= s.n; column += V::kWidth) {
    gemm_columns<V, W, 2 * kRows, 1>(s, a, b + column, c + column, 0);
  }
  if (column < s.n) gemm_columns<V, W, 2 * kRows, 1>(s, a, b + column, c + column, s.n - column);
}

}  // namespace
}  // namespace quarry::kernels
