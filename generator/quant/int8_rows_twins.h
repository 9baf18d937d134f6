#pragma once

#include <stdint.h>

// The versions that int8_rows.cpp chooses from; their results are the same, bit for bit.
//
// mark_outliers  is_outlier[j] = 1 for columns [begin, end) of x [m, k] that hold a magnitude of
//                `threshold` or more
// round_row      codes of one row, 0 for such magnitudes; returns the largest of the others.
//                A threshold of 0: there are none
// dot_rows       out[r * num_weights + i] = sum over k of codes[r, k] * weights[i, k]
// scale_sums     out[i] = sums[i] * (row_absmax * absmax[i]) / 127^2
#define QUARRY_DECLARE_INT8_ROWS                                                             \
  void mark_outliers(const float* x, int64_t m, int64_t k, int64_t begin, int64_t end,       \
                     float threshold, uint8_t* is_outlier);                                  \
  float round_row(const float* x, int64_t k, float threshold, int8_t* codes);                \
  void dot_rows(const int8_t* codes, int64_t m, const int8_t* weights, int64_t num_weights,  \
                int64_t k, int32_t* out);                                                    \
  void scale_sums(const int32_t* sums, float row_absmax, const float* absmax, int64_t count, \
                  float* out);
namespace quarry {
namespace portable {
QUARRY_DECLARE_INT8_ROWS
}
namespace avx512 {
QUARRY_DECLARE_INT8_ROWS
}
}  // namespace quarry
#undef QUARRY_DECLARE_INT8_ROWS
