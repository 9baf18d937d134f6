// Built with -ffp-contract=off: every rounding step is part of the result.
#include "generator/quant/int8_rows.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/half.h"

namespace quarry {
namespace {

// Codes of one row; returns its largest magnitude. A row of zeros has codes 0.
float encode_row(const float* values, int64_t count, int8_t* codes) {
  float absmax = 0.0f;
  for (int64_t i = 0; i < count; ++i) absmax = std::max(absmax, std::fabs(values[i]));
  // 127 / absmax by way of the reciprocal, as PyTorch divides a number by a tensor. Of an absmax so
  // small that it overflows, all codes are 0.
  const float factor = absmax > 0.0f ? 127.0f * (1.0f / absmax) : 0.0f;
  const bool usable = std::isfinite(factor);
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = static_cast<int8_t>(usable ? std::nearbyint(values[i] * factor) : 0.0f);
  }
  return absmax;
}

// Activations of one product, rounded row by row.
struct RoundedRows {
  std::vector<int8_t> codes;      // [m, k], 0 in outlier columns
  std::vector<float> absmax;      // [m]
  std::vector<int64_t> outliers;  // columns, ascending
};

RoundedRows round_rows(const float* x, int64_t m, int64_t k, float threshold) {
  RoundedRows rounded;
  rounded.codes.resize(static_cast<size_t>(m * k));
  std::vector<uint8_t> is_outlier(static_cast<size_t>(k), 0);
  const auto keeps = [&](float value) { return threshold > 0.0f && std::fabs(value) >= threshold; };
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < k; ++j) is_outlier[static_cast<size_t>(j)] |= keeps(x[r * k + j]);
  }
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = 0; j < k; ++j) {
      row[static_cast<size_t>(j)] = keeps(x[r * k + j]) ? 0.0f : x[r * k + j];
    }
    int8_t* codes = rounded.codes.data() + r * k;
    rounded.absmax.push_back(encode_row(row.data(), k, codes));
    for (int64_t j = 0; m > 1 && j < k; ++j) {
      if (is_outlier[static_cast<size_t>(j)] != 0) codes[j] = 0;
    }
  }
  for (int64_t j = 0; j < k; ++j) {
    if (is_outlier[static_cast<size_t>(j)] != 0) rounded.outliers.push_back(j);
  }
  return rounded;
}

int32_t dot(const int8_t* a, const int8_t* b, int64_t count) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += int32_t{a[i]} * int32_t{b[i]};
  return sum;
}

}  // namespace

Int8Rows quantize_int8_rows(const float* values, int64_t rows, int64_t columns) {
  Int8Rows result;
  result.codes.resize(static_cast<size_t>(rows * columns));
  result.state.absmax.resize(static_cast<size_t>(rows));
  parallel_for(rows, std::max<int64_t>(1, 65536 / columns), [&](int64_t begin, int64_t end) {
    std::vector<float> halves(static_cast<size_t>(columns));
    for (int64_t row = begin; row < end; ++row) {
      bool finite = true;
      for (int64_t i = 0; i < columns; ++i) {
        float& half = halves[static_cast<size_t>(i)];
        half = quant::half_to_float(quant::float_to_half(values[row * columns + i]));
        finite = finite && std::isfinite(half);
      }
      result.state.absmax[static_cast<size_t>(row)] =
          finite ? encode_row(halves.data(), columns, result.codes.data() + row * columns)
                 : std::nanf("");
    }
  });
  for (const float absmax : result.state.absmax) {
    QUARRY_CHECK(std::isfinite(absmax), ErrorCode::kInvalidArgument,
                 "8-bit quantization: a value is not finite as float16");
  }
  return result;
}

void dequantize_int8_row(const QuantState& state, const int8_t* codes, int64_t row, int64_t columns,
                         float* destination) {
  const float scale = int8_row_scale(state.absmax[static_cast<size_t>(row)]);
  for (int64_t i = 0; i < columns; ++i) {
    destination[i] = static_cast<float>(codes[row * columns + i]) * scale;
  }
}

void multiply_int8_rows(const QuantState& state, const int8_t* codes, int64_t n, int64_t k,
                        const float* x, int64_t m, const Int8ProductOptions& options, float* y,
                        int64_t ldy) {
  const RoundedRows rounded = round_rows(x, m, k, options.outlier_threshold);
  parallel_for(n, std::max<int64_t>(1, 65536 / (m * k)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* weights = codes + row * k;
      const float absmax = state.absmax[static_cast<size_t>(row)];
      for (int64_t r = 0; r < m; ++r) {
        const auto total = static_cast<float>(dot(rounded.codes.data() + r * k, weights, k));
        float sum = total * (rounded.absmax[static_cast<size_t>(r)] * absmax) / (127.0f * 127.0f);
        for (const int64_t j : rounded.outliers) {
          sum += x[r * k + j] * (static_cast<float>(weights[j]) * int8_row_scale(absmax));
        }
        y[r * ldy + row] = sum;
      }
    }
  });
}

}  // namespace quarry
