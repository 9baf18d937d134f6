// Built with -ffp-contract=off: every rounding step is part of the result.
#include "generator/quant/encode_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "generator/quant/blocks.h"
#include "generator/quant/half.h"

namespace quarry {
namespace {

using namespace quant;

// The value of the largest magnitude, the first of equals.
float extreme(const float* x) {
  float found = 0.0f;
  for (int i = 0; i < kBlockSize; ++i) {
    if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
  }
  return found;
}

// 0 where there is none: of 0, and of scales so small that it would overflow.
float reciprocal(float d) {
  const float inverse = 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// Truncates, as the reference does after adding a half.
int limited(float value, int largest) {
  return std::min(largest, static_cast<int>(static_cast<int8_t>(value)));
}

// Puts 32 codes of up to 5 bits into nibbles and, if given, fifth bits.
void pack_codes(const int* codes, uint8_t* nibbles, uint8_t* fifth_bits) {
  uint32_t fifth = 0;
  for (int i = 0; i < 16; ++i) {
    nibbles[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
    fifth |= static_cast<uint32_t>(codes[i] >> 4) << i;
    fifth |= static_cast<uint32_t>(codes[i + 16] >> 4) << (i + 16);
  }
  if (fifth_bits != nullptr) std::memcpy(fifth_bits, &fifth, sizeof(fifth));
}

// Codes 0 .. 2 * half - 1 around `half`; returns the scale.
float encode_centered(const float* x, int half, int* codes) {
  const float d = extreme(x) / static_cast<float>(-half);
  const float factor = reciprocal(d);
  for (int i = 0; i < kBlockSize; ++i) {
    codes[i] = limited(x[i] * factor + (static_cast<float>(half) + 0.5f), 2 * half - 1);
  }
  return d;
}

struct Range {
  float scale;
  float minimum;
};

// Codes 0 .. largest from the smallest value up.
Range encode_range(const float* x, int largest, int* codes) {
  const float low = *std::min_element(x, x + kBlockSize);
  const float high = *std::max_element(x, x + kBlockSize);
  const float d = (high - low) / static_cast<float>(largest);
  const float factor = reciprocal(d);
  for (int i = 0; i < kBlockSize; ++i) codes[i] = limited((x[i] - low) * factor + 0.5f, largest);
  return {d, low};
}

void encode_block(const float* x, BlockQ4_0* block) {
  int codes[kBlockSize];
  block->d = float_to_half(encode_centered(x, 8, codes));
  pack_codes(codes, block->qs, nullptr);
}

void encode_block(const float* x, BlockQ5_0* block) {
  int codes[kBlockSize];
  block->d = float_to_half(encode_centered(x, 16, codes));
  pack_codes(codes, block->qs, block->qh);
}

void encode_block(const float* x, BlockQ4_1* block) {
  int codes[kBlockSize];
  const Range range = encode_range(x, 15, codes);
  block->d = float_to_half(range.scale);
  block->m = float_to_half(range.minimum);
  pack_codes(codes, block->qs, nullptr);
}

void encode_block(const float* x, BlockQ5_1* block) {
  int codes[kBlockSize];
  const Range range = encode_range(x, 31, codes);
  block->d = float_to_half(range.scale);
  block->m = float_to_half(range.minimum);
  pack_codes(codes, block->qs, block->qh);
}

void encode_block(const float* x, BlockQ8_0* block) {
  const float d = std::fabs(extreme(x)) / 127.0f;
  const float factor = reciprocal(d);
  block->d = float_to_half(d);
  for (int i = 0; i < kBlockSize; ++i) {
    block->qs[i] = static_cast<int8_t>(std::round(x[i] * factor));
  }
}

template <typename Block>
void encode_all(const float* source, int64_t count, void* destination) {
  auto* bytes = static_cast<uint8_t*>(destination);
  for (int64_t b = 0; b < count / kBlockSize; ++b) {
    Block block;
    encode_block(source + b * kBlockSize, &block);
    std::memcpy(bytes + b * static_cast<int64_t>(sizeof(Block)), &block, sizeof(Block));
  }
}

}  // namespace

bool can_encode_blocks(WeightType type) {
  return type == WeightType::kQ4_0 || type == WeightType::kQ4_1 || type == WeightType::kQ5_0 ||
         type == WeightType::kQ5_1 || type == WeightType::kQ8_0;
}

void encode_blocks(WeightType type, const float* source, int64_t count, void* destination) {
  switch (type) {
    case WeightType::kQ4_0:
      return encode_all<BlockQ4_0>(source, count, destination);
    case WeightType::kQ4_1:
      return encode_all<BlockQ4_1>(source, count, destination);
    case WeightType::kQ5_0:
      return encode_all<BlockQ5_0>(source, count, destination);
    case WeightType::kQ5_1:
      return encode_all<BlockQ5_1>(source, count, destination);
    case WeightType::kQ8_0:
      return encode_all<BlockQ8_0>(source, count, destination);
    default:
      break;
  }
  throw_error(ErrorCode::kInvalidArgument, "cannot write blocks of ", weight_type_traits(type).name,
              ", wanted Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0");
}

}  // namespace quarry
