// Built with -ffp-contract=off: every rounding step is part of the result.
#include "generator/quant/int8_rows.h"

#include <algorithm>
#include <cmath>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/half.h"
#include "generator/quant/int8_rows_twins.h"

namespace quarry {
namespace {

// Elements that a thread should have at least.
constexpr int64_t kGrainElements = 16384;
// What is multiplied at a time: so many weight rows stay in L1 or L2 while these rows pass by.
constexpr int64_t kWeightTile = 16;
constexpr int64_t kRowTile = 64;

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

bool is_outlier_value(float value, float threshold) {
  return threshold > 0.0f && std::fabs(value) >= threshold;
}

}  // namespace

namespace portable {

void mark_outliers(const float* x, int64_t m, int64_t k, int64_t begin, int64_t end,
                   float threshold, uint8_t* is_outlier) {
  std::fill(is_outlier + begin, is_outlier + end, uint8_t{0});
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = begin; j < end; ++j) {
      is_outlier[j] |= static_cast<uint8_t>(is_outlier_value(x[r * k + j], threshold));
    }
  }
}

float round_row(const float* x, int64_t k, float threshold, int8_t* codes) {
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t j = 0; j < k; ++j) {
    row[static_cast<size_t>(j)] = is_outlier_value(x[j], threshold) ? 0.0f : x[j];
  }
  return encode_row(row.data(), k, codes);
}

void dot_rows(const int8_t* codes, int64_t m, const int8_t* weights, int64_t num_weights, int64_t k,
              int32_t* out) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < num_weights; ++i) {
      int32_t sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += int32_t{codes[r * k + j]} * weights[i * k + j];
      out[r * num_weights + i] = sum;
    }
  }
}

void scale_sums(const int32_t* sums, float row_absmax, const float* absmax, int64_t count,
                float* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>(sums[i]) * (row_absmax * absmax[i]) / (127.0f * 127.0f);
  }
}

}  // namespace portable

namespace {

bool has_avx512() { return cpu_isa() == CpuIsa::kAvx512; }

RoundedRows round_rows(const float* x, int64_t m, int64_t k, float threshold) {
  const auto mark = has_avx512() ? avx512::mark_outliers : portable::mark_outliers;
  const auto round = has_avx512() ? avx512::round_row : portable::round_row;
  RoundedRows rounded;
  rounded.codes.resize(static_cast<size_t>(m * k));
  rounded.absmax.resize(static_cast<size_t>(m));
  std::vector<uint8_t> is_outlier(static_cast<size_t>(k), 0);
  if (threshold > 0.0f) {
    parallel_for(k, std::max<int64_t>(64, kGrainElements / m), [&](int64_t begin, int64_t end) {
      mark(x, m, k, begin, end, threshold, is_outlier.data());
    });
  }
  for (int64_t j = 0; j < k; ++j) {
    if (is_outlier[static_cast<size_t>(j)] != 0) rounded.outliers.push_back(j);
  }
  parallel_for(m, std::max<int64_t>(1, kGrainElements / k), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int8_t* codes = rounded.codes.data() + r * k;
      rounded.absmax[static_cast<size_t>(r)] = round(x + r * k, k, threshold, codes);
      for (const int64_t j : rounded.outliers) {
        if (m > 1) codes[j] = 0;
      }
    }
  });
  return rounded;
}

// y of weight rows [begin, end), whose integer products with all rows of x are in `totals`.
struct Int8Product {
  const QuantState& state;
  const int8_t* codes;
  int64_t k;
  const float* x;
  const RoundedRows& rounded;
  float* y;
  int64_t ldy;

  void finish(int64_t row, int64_t rows, int64_t begin, int64_t end, const int32_t* totals) const {
    const int64_t count = end - begin;
    const float* absmax = state.absmax.data() + begin;
    std::vector<float> outliers;  // weights of each of their columns, [rounded.outliers][count]
    for (const int64_t j : rounded.outliers) {
      for (int64_t i = begin; i < end; ++i) {
        outliers.push_back(static_cast<float>(codes[i * k + j]) *
                           int8_row_scale(absmax[i - begin]));
      }
    }
    const auto scale = has_avx512() ? avx512::scale_sums : portable::scale_sums;
    for (int64_t r = row; r < row + rows; ++r) {
      float* out = y + r * ldy + begin;
      scale(totals + (r - row) * count, rounded.absmax[static_cast<size_t>(r)], absmax, count, out);
      const float* weights = outliers.data();
      for (const int64_t j : rounded.outliers) {
        for (int64_t i = 0; i < count; ++i) out[i] += x[r * k + j] * weights[i];
        weights += count;
      }
    }
  }
};

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
  const auto dot = has_avx512() ? avx512::dot_rows : portable::dot_rows;
  const Int8Product product = {state, codes, k, x, rounded, y, ldy};
  const int64_t tiles = (n + kWeightTile - 1) / kWeightTile;
  const int64_t grain = std::max<int64_t>(1, 8 * kGrainElements / (m * k * kWeightTile));
  parallel_for(tiles, grain, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> totals(static_cast<size_t>(kRowTile * kWeightTile));
    for (int64_t first = begin * kWeightTile; first < std::min(n, end * kWeightTile);
         first += kWeightTile) {
      const int64_t last = std::min(n, first + kWeightTile);
      for (int64_t row = 0; row < m; row += kRowTile) {
        const int64_t rows = std::min(kRowTile, m - row);
        dot(rounded.codes.data() + row * k, rows, codes + first * k, last - first, k,
            totals.data());
        product.finish(row, rows, first, last, totals.data());
      }
    }
  });
}

}  // namespace quarry
