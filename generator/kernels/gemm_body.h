#pragma once

#include "generator/kernels/gemm_twins.h"

// gemm_serial on a vector type V of vec_*.h. Included once by each gemm*.cpp.
namespace quarry::kernels {
namespace {

// kRows x (kVectors * V::kWidth) elements of C at row `row`, column `column`. `tail` < V::kWidth
// columns of the last vector are real (0: all).
template <typename V, int kRows, int kVectors>
inline void gemm_tile(const GemmShape& s, const float* a, const float* b, float* c, int64_t tail) {
  V total[kRows][kVectors];
  const auto load = [tail](const float* p, int i) {
    return tail != 0 && i == kVectors - 1 ? V::load_first(p, tail) : V::load(p);
  };
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      total[r][i] = s.accumulate ? load(c + r * s.ldc + i * V::kWidth, i) : V::zero();
    }
  }
  for (int64_t p = 0; p < s.k; ++p) {
    V values[kVectors];
    for (int i = 0; i < kVectors; ++i) values[i] = load(b + p * s.ldb + i * V::kWidth, i);
    for (int r = 0; r < kRows; ++r) {
      const V factor = V::set1(a[r * s.a_row_stride + p * s.a_column_stride]);
      for (int i = 0; i < kVectors; ++i) total[r][i] = fma(values[i], factor, total[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      float* out = c + r * s.ldc + i * V::kWidth;
      if (tail != 0 && i == kVectors - 1) {
        total[r][i].store_first(out, tail);
      } else {
        total[r][i].store(out);
      }
    }
  }
}

template <typename V, int kRows, int kVectors>
void gemm_columns(const GemmShape& s, const float* a, const float* b, float* c, int64_t tail) {
  int64_t row = 0;
  const auto at = [&](int64_t r) { return a + r * s.a_row_stride; };
  for (; row + kRows <= s.m; row += kRows) {
    gemm_tile<V, kRows, kVectors>(s, at(row), b, c + row * s.ldc, tail);
  }
  for (; row + 2 <= s.m; row += 2) gemm_tile<V, 2, kVectors>(s, at(row), b, c + row * s.ldc, tail);
  if (row < s.m) gemm_tile<V, 1, kVectors>(s, at(row), b, c + row * s.ldc, tail);
}

// kRows x kVectors: the register tile.
template <typename V, int kRows, int kVectors>
void gemm_body(const GemmShape& s, const float* a, const float* b, float* c) {
  constexpr int64_t kColumns = kVectors * V::kWidth;
  int64_t column = 0;
  for (; column + kColumns <= s.n; column += kColumns) {
    gemm_columns<V, kRows, kVectors>(s, a, b + column, c + column, 0);
  }
  for (; column + V::kWidth <= s.n; column += V::kWidth) {
    gemm_columns<V, 2 * kRows, 1>(s, a, b + column, c + column, 0);
  }
  if (column < s.n) gemm_columns<V, 2 * kRows, 1>(s, a, b + column, c + column, s.n - column);
}

}  // namespace
}  // namespace quarry::kernels
