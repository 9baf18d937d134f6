#pragma once

#include <stdint.h>

// destination[i - begin] = codebook[code i] * absmax[i / block_size] for i in [begin, end), codes
// as in four_bit.h. dequantize_four_bit chooses; the results are the same, bit for bit.
#define QUARRY_DECLARE_FOUR_BIT                                                        \
  void decode_four_bit(const float* codebook, const float* absmax, int64_t block_size, \
                       const uint8_t* codes, int64_t begin, int64_t end, float* destination);
namespace quarry {
namespace portable {
QUARRY_DECLARE_FOUR_BIT
}
namespace avx512 {
QUARRY_DECLARE_FOUR_BIT
}
}  // namespace quarry
#undef QUARRY_DECLARE_FOUR_BIT
