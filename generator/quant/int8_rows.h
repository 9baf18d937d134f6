#pragma once

#include <cstdint>
#include <vector>

#include "generator/quant/quant_state.h"

// Row-wise 8-bit weights as LLM.int8 of bitsandbytes 0.50 keeps them (Dettmers et al. 2022,
// arXiv:2208.07339): SCB[o] = max |W[o, :]|, CB[o, i] = round(W[o, i] * (127 * (1 / SCB[o]))), to
// even; W ~ CB * (SCB * (1 / 127)).
namespace quarry {

inline float int8_row_scale(float absmax) { return absmax * (1.0f / 127.0f); }

struct Int8Rows {
  std::vector<int8_t> codes;  // [rows, columns]
  QuantState state;           // absmax: SCB
};

// The weights are rounded to float16 first, as bitsandbytes does. Throws kInvalidArgument for a
// value that is not finite then.
Int8Rows quantize_int8_rows(const float* values, int64_t rows, int64_t columns);

// `count` values of row `row`, from column 0 on.
void dequantize_int8_row(const QuantState& state, const int8_t* codes, int64_t row, int64_t columns,
                         float* destination);

struct Int8ProductOptions {
  // Columns of x with a magnitude of this or more keep full precision; 0: none do.
  float outlier_threshold = 6.0f;
};

// y[m, n] = x[m, k] * W^T by the rule of LLM.int8: each row of x is rounded to 8 bits by its
// largest magnitude that is no outlier, products are summed in integers, and the columns of x that
// hold an outlier are multiplied in float32 with the decoded weights. A column is an outlier for
// all m rows, so that, unlike in kernels::matmul, rows depend on their batch; of a single row only
// the outliers themselves are left out. x is contiguous, y has the row stride ldy; they do not
// overlap. Runs on parallel_for's threads.
void multiply_int8_rows(const QuantState& state, const int8_t* codes, int64_t n, int64_t k,
                        const float* x, int64_t m, const Int8ProductOptions& options, float* y,
                        int64_t ldy);

}  // namespace quarry
