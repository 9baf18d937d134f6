#pragma once

#include "generator/kernels/matmul_twins.h"

// The float32 tile on a vector type V of vec_*.h. Included once by matmul_avx2 and matmul_avx512.
namespace quarry::kernels {
namespace {

// Stores the columns of one strip that exist.
template <typename V, int kVectors>
inline void store_strip(const V* values, float* y, int64_t columns) {
  for (int v = 0; v < kVectors; ++v) {
    const int64_t rest = columns - v * V::kWidth;
    if (rest >= V::kWidth) {
      values[v].store(y + v * V::kWidth);
    } else if (rest > 0) {
      values[v].store_first(y + v * V::kWidth, rest);
    }
  }
}

// kRows rows of x by kStrips strips: y = sum over k in order, one accumulator per output.
template <typename V, int kRows, int kStrips>
inline void float_micro(const float* const* strips, int64_t k, const float* x, int64_t ldx,
                        float* y, int64_t ldy, int64_t columns) {
  constexpr int kVectors = kStripRows / V::kWidth;
  V sums[kRows][kStrips * kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (V& sum : sums[r]) sum = V::zero();
  }
  for (int64_t j = 0; j < k; ++j) {
    V w[kStrips * kVectors];
    for (int s = 0; s < kStrips; ++s) {
      for (int v = 0; v < kVectors; ++v) {
        w[s * kVectors + v] = V::load(strips[s] + j * kStripRows + v * V::kWidth);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const V value = V::set1(x[r * ldx + j]);
      for (int i = 0; i < kStrips * kVectors; ++i) sums[r][i] = fma(w[i], value, sums[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kStrips; ++s) {
      store_strip<V, kVectors>(sums[r] + s * kVectors, y + r * ldy + s * kStripRows,
                               columns - s * kStripRows);
    }
  }
}

template <typename V, int kRows, int kStrips>
void float_rows(const float* const* strips, const MatrixView& w, const ActivationView& x,
                int64_t row, int64_t row_end, int64_t strip, float* y, int64_t ldy) {
  const int64_t ldx = x.row_bytes / 4;
  const float* values = reinterpret_cast<const float*>(x.codes);
  const int64_t columns = w.n - strip * kStripRows;
  float* out = y + strip * kStripRows;
  for (; row + kRows <= row_end; row += kRows) {
    float_micro<V, kRows, kStrips>(strips, w.k, values + row * ldx, ldx, out + row * ldy, ldy,
                                   columns);
  }
  for (; row < row_end; ++row) {
    float_micro<V, 1, kStrips>(strips, w.k, values + row * ldx, ldx, out + row * ldy, ldy, columns);
  }
}

template <typename V, int kRows, int kStrips>
void float_tile_body(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy) {
  int64_t strip = range.strip_begin;
  for (; strip < range.strip_end; strip += kStrips) {
    const float* strips[kStrips];
    const bool whole = strip + kStrips <= range.strip_end;
    for (int s = 0; s < kStrips; ++s) {
      strips[s] =
          reinterpret_cast<const float*>(w.codes + (strip + (whole ? s : 0)) * w.strip_bytes);
    }
    if (whole) {
      float_rows<V, kRows, kStrips>(strips, w, x, range.row_begin, range.row_end, strip, y, ldy);
    } else {
      for (int64_t one = strip; one < range.strip_end; ++one) {
        strips[0] = reinterpret_cast<const float*>(w.codes + one * w.strip_bytes);
        float_rows<V, kRows, 1>(strips, w, x, range.row_begin, range.row_end, one, y, ldy);
      }
    }
  }
}

}  // namespace
}  // namespace quarry::kernels
