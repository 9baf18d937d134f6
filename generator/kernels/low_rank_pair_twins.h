#pragma once

#include <stdint.h>

// The versions of what LowRankPair does with B and u in bytes.
namespace quarry::kernels {

// B of an update: strips of 16 columns, codes [groups][16][4] unsigned with 128 for 0, four of the
// rank in a group, and a scale for each column.
struct LowRankBytes {
  const uint8_t* codes;
  const float* scales;
  int64_t groups;
};
// Rows of u: `groups` groups of four signed bytes, a float scale and -128 times the bytes' sum.
struct LowRankRows {
  const uint8_t* u;
  int64_t row_bytes;
  int64_t count;
};

// add_low_rank_bytes   y [rows, end - begin], row stride ldy, += float(sum of products) * (scale of
//                      column * of row)
// round_low_rank_row   `rank` floats as one row of LowRankRows; of values that are not finite the
//                      scale is NaN
#define QUARRY_DECLARE_LOW_RANK                                                          \
  void add_low_rank_bytes(const LowRankBytes& b, const LowRankRows& rows, int64_t begin, \
                          int64_t end, float* y, int64_t ldy);                           \
  void round_low_rank_row(const float* values, int64_t rank, uint8_t* u);
namespace portable {
QUARRY_DECLARE_LOW_RANK
}
namespace avx512 {
QUARRY_DECLARE_LOW_RANK
}
#undef QUARRY_DECLARE_LOW_RANK

}  // namespace quarry::kernels
