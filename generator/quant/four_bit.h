#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "generator/quant/quant_state.h"
#include "generator/quant/weight_type.h"

// The 4-bit types NF4 and FP4 as bitsandbytes 0.50 defines them, bit for bit: codes, absmax and
// decoded values equal those of its portable backend (the one that its CUDA kernels are tested
// against). Two codes a byte, the first in the high nibble; blocks run over the flattened row-major
// tensor, the last one may be partial, and an odd count is padded with the code of 0.
namespace quarry {

// The values of the 16 codes, scaled to [-1, 1]. REQUIRES: type is kNF4 or kFP4.
const std::array<float, 16>& four_bit_codebook(WeightType type);

struct FourBitOptions {
  WeightType type = WeightType::kNF4;  // or kFP4
  int64_t block_size = 64;             // a power of two, 32 to 4096
  bool double_quant = true;            // 8 bits for an absmax instead of 32: 4.13 bits a weight
};

struct FourBitCodes {
  std::vector<uint8_t> codes;  // (count + 1) / 2
  QuantState state;
};

// Quantizes `count` values on parallel_for's threads. Throws kInvalidArgument for another block
// size, and for a value that is not finite.
FourBitCodes quantize_four_bit(const float* values, int64_t count, const FourBitOptions& options);

// Values [begin, end) of a tensor: codebook[code] * absmax in float32. REQUIRES: a valid state.
void dequantize_four_bit(WeightType type, const QuantState& state, const uint8_t* codes,
                         int64_t begin, int64_t end, float* destination);

// The absmax that a nested state stands for.
std::vector<float> decode_absmax(const NestedAbsmax& nested);

// Throws kInvalidArgument unless block_size is a power of two, 32 to 4096.
void check_four_bit_block(int64_t block_size, const std::string& what);

}  // namespace quarry
