#include "generator/kernels/low_rank.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/gemm_bfloat16.h"

namespace quarry::kernels {
namespace {

// Rows that a thread takes at once: two register tiles.
constexpr int64_t kRowBlock = 12;
// What of x stands in pairs of rows at a time: 64 x 64 elements stay in L1.
constexpr int64_t kOuterRows = 64;
constexpr int64_t kOuterColumns = 64;
// Up to this rank a row's sum over k is cut in two, so that it fills the vector of 16 columns.
constexpr int64_t kHalvedRank = 8;
// Products that are worth a thread of their own.
constexpr int64_t kGrainProducts = 512 * 1024;

int64_t grain(int64_t products_of_unit) {
  return (kGrainProducts + products_of_unit - 1) / std::max<int64_t>(1, products_of_unit);
}

std::vector<uint16_t> round_all(const float* values, int64_t count) {
  std::vector<uint16_t> rounded(static_cast<size_t>(count));
  float_to_bfloat16(values, count, rounded.data());
  return rounded;
}

// Pairs of the rows of a matrix [rows, width] with this row stride; an odd last one gets zeros.
void pair_rows(const uint16_t* rows, int64_t stride, int64_t count, int64_t width,
               BFloat16Pair* out) {
  int64_t row = 0;
  for (; row + 2 <= count; row += 2) {
    interleave(rows + row * stride, rows + (row + 1) * stride, width,
               reinterpret_cast<uint16_t*>(out + row / 2 * width));
  }
  if (row == count) return;
  for (int64_t j = 0; j < width; ++j) out[row / 2 * width + j] = {rows[row * stride + j], 0};
}

// u = x weights^T by quads of x: columns 2 r and 2 r + 1 of a product with two columns a rank.
void project_quads(const BFloat16Rows& x, const uint16_t* weights, int64_t rank, float* u) {
  const int64_t quads = x.width / 4;
  std::vector<BFloat16Pair> by_column(static_cast<size_t>(quads * 2 * rank));
  for (int64_t q = 0; q < quads; ++q) {
    for (int64_t r = 0; r < rank; ++r) {
      std::memcpy(by_column.data() + 2 * (q * rank + r), weights + r * x.width + 4 * q,
                  sizeof(BFloat16Quad));
    }
  }
  parallel_for(x.count, grain(x.width * rank), [&](int64_t begin, int64_t end) {
    float halves[kRowBlock * 2 * kHalvedRank];
    GemmShape shape;
    shape.n = shape.ldb = shape.ldc = 2 * rank;
    shape.k = quads;
    shape.a_row_stride = x.stride / 4;
    for (int64_t row = begin; row < end; row += kRowBlock) {
      shape.m = std::min(kRowBlock, end - row);
      gemm_bfloat16_quads_serial(shape,
                                 reinterpret_cast<const BFloat16Quad*>(x.data + row * x.stride),
                                 by_column.data(), halves);
      for (int64_t i = 0; i < shape.m * rank; ++i)
        u[row * rank + i] = halves[2 * i] + halves[2 * i + 1];
    }
  });
}

void project_pairs(const BFloat16Rows& x, const uint16_t* weights, int64_t rank, float* u) {
  std::vector<BFloat16Pair> by_column(static_cast<size_t>(x.width / 2 * rank));
  for (int64_t p = 0; p < x.width / 2; ++p) {
    for (int64_t r = 0; r < rank; ++r) {
      const uint16_t* pair = weights + r * x.width + 2 * p;
      by_column[static_cast<size_t>(p * rank + r)] = {pair[0], pair[1]};
    }
  }
  parallel_for(x.count, grain(x.width * rank), [&](int64_t begin, int64_t end) {
    GemmShape shape;
    shape.m = end - begin;
    shape.n = rank;
    shape.k = x.width / 2;
    shape.a_row_stride = x.stride / 2;
    shape.ldb = shape.ldc = rank;
    gemm_bfloat16_serial(shape, reinterpret_cast<const BFloat16Pair*>(x.data + begin * x.stride),
                         by_column.data(), u + begin * rank);
  });
}

}  // namespace

void low_rank_project(const BFloat16Rows& x, const float* weights, int64_t rank, float* u) {
  const std::vector<uint16_t> rounded = round_all(weights, rank * x.width);
  if (rank <= kHalvedRank && x.width % 4 == 0 && x.stride % 4 == 0) {
    project_quads(x, rounded.data(), rank, u);
  } else {
    project_pairs(x, rounded.data(), rank, u);
  }
}

void low_rank_expand(const float* u, int64_t count, int64_t rank, const float* weights,
                     int64_t width, float* y, int64_t ldy) {
  const int64_t pairs = (rank + 1) / 2;
  std::vector<BFloat16Pair> by_pair(static_cast<size_t>(pairs * width));
  pair_rows(round_all(weights, rank * width).data(), width, rank, width, by_pair.data());
  parallel_for(count, grain(width * rank), [&](int64_t begin, int64_t end) {
    std::vector<BFloat16Pair> factors(static_cast<size_t>(kRowBlock * pairs));
    auto* bits = reinterpret_cast<uint16_t*>(factors.data());
    GemmShape shape;
    shape.n = width;
    shape.k = pairs;
    shape.a_row_stride = pairs;
    shape.ldb = width;
    shape.ldc = ldy;
    shape.accumulate = true;
    for (int64_t row = begin; row < end; row += kRowBlock) {
      shape.m = std::min(kRowBlock, end - row);
      for (int64_t i = 0; i < shape.m; ++i) {
        float_to_bfloat16(u + (row + i) * rank, rank, bits + i * 2 * pairs);
      }
      gemm_bfloat16_serial(shape, factors.data(), by_pair.data(), y + row * ldy);
    }
  });
}

void low_rank_outer(const float* u, int64_t rank, const BFloat16Rows& x, float* sums) {
  std::vector<BFloat16Pair> factors(static_cast<size_t>((x.count + 1) / 2 * rank));
  pair_rows(round_all(u, x.count * rank).data(), rank, x.count, rank, factors.data());
  const int64_t chunks = (x.width + kOuterColumns - 1) / kOuterColumns;
  parallel_for(chunks, grain(x.count * rank * kOuterColumns), [&](int64_t begin, int64_t end) {
    std::vector<BFloat16Pair> pairs(static_cast<size_t>(kOuterRows / 2 * kOuterColumns));
    for (int64_t column = begin * kOuterColumns; column < std::min(x.width, end * kOuterColumns);
         column += kOuterColumns) {
      GemmShape shape;
      shape.m = rank;
      shape.n = std::min(kOuterColumns, x.width - column);
      shape.a_row_stride = 1;
      shape.a_column_stride = rank;
      shape.ldb = shape.n;
      shape.ldc = x.width;
      shape.accumulate = true;
      for (int64_t row = 0; row < x.count; row += kOuterRows) {
        const int64_t rows = std::min(kOuterRows, x.count - row);
        pair_rows(x.data + row * x.stride + column, x.stride, rows, shape.n, pairs.data());
        shape.k = (rows + 1) / 2;
        gemm_bfloat16_serial(shape, factors.data() + row / 2 * rank, pairs.data(), sums + column);
      }
    }
  });
}

}  // namespace quarry::kernels
