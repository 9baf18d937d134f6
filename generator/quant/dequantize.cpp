// Plain decoders of every stored format. Built with -ffp-contract=off: the rounding of each product
// and sum is part of the result, which equals the `gguf` Python package bit for bit.
#include <cstring>

#include "data/core/error.h"
#include "generator/quant/blocks.h"
#include "generator/quant/half.h"
#include "generator/quant/weight_type.h"

namespace quarry {
namespace {

using namespace quant;

void decode_block(const BlockQ4_0& block, float* x) {
  const float d = half_to_float(block.d);
  for (int j = 0; j < 16; ++j) {
    x[j] = d * static_cast<float>((block.qs[j] & 15) - 8);
    x[j + 16] = d * static_cast<float>((block.qs[j] >> 4) - 8);
  }
}

void decode_block(const BlockQ4_1& block, float* x) {
  const float d = half_to_float(block.d);
  const float m = half_to_float(block.m);
  for (int j = 0; j < 16; ++j) {
    x[j] = d * static_cast<float>(block.qs[j] & 15) + m;
    x[j + 16] = d * static_cast<float>(block.qs[j] >> 4) + m;
  }
}

// The 5-bit numbers of a Q5_0 or Q5_1 block.
template <typename Block>
void unpack_q5(const Block& block, int* q) {
  uint32_t high = 0;
  std::memcpy(&high, block.qh, sizeof(high));
  for (int j = 0; j < 16; ++j) {
    q[j] = static_cast<int>((block.qs[j] & 15u) | ((high >> j) & 1u) << 4);
    q[j + 16] = static_cast<int>((block.qs[j] >> 4) | ((high >> (j + 16)) & 1u) << 4);
  }
}

void decode_block(const BlockQ5_0& block, float* x) {
  const float d = half_to_float(block.d);
  int q[kBlockSize];
  unpack_q5(block, q);
  for (int i = 0; i < kBlockSize; ++i) x[i] = d * static_cast<float>(q[i] - 16);
}

void decode_block(const BlockQ5_1& block, float* x) {
  const float d = half_to_float(block.d);
  const float m = half_to_float(block.m);
  int q[kBlockSize];
  unpack_q5(block, q);
  for (int i = 0; i < kBlockSize; ++i) x[i] = d * static_cast<float>(q[i]) + m;
}

void decode_block(const BlockQ8_0& block, float* x) {
  const float d = half_to_float(block.d);
  for (int i = 0; i < kBlockSize; ++i) x[i] = d * static_cast<float>(block.qs[i]);
}

// Scale and minimum of sub-block s of a Q4_K or Q5_K block; the packing is stated in blocks.h.
void unpack_scale_min(const uint8_t* scales, int s, int* scale, int* minimum) {
  if (s < 4) {
    *scale = scales[s] & 63;
    *minimum = scales[s + 4] & 63;
  } else {
    *scale = (scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4;
    *minimum = (scales[s + 4] >> 4) | (scales[s] >> 6) << 4;
  }
}

void decode_block(const BlockQ4_K& block, float* x) {
  const float d = half_to_float(block.d);
  const float dmin = half_to_float(block.dmin);
  for (int s = 0; s < 8; ++s) {
    int scale = 0;
    int minimum = 0;
    unpack_scale_min(block.scales, s, &scale, &minimum);
    const float step = d * static_cast<float>(scale);
    const float offset = dmin * static_cast<float>(minimum);
    const uint8_t* qs = block.qs + 32 * (s / 2);
    const int shift = 4 * (s % 2);
    for (int i = 0; i < 32; ++i) {
      x[32 * s + i] = step * static_cast<float>((qs[i] >> shift) & 15) - offset;
    }
  }
}

void decode_block(const BlockQ5_K& block, float* x) {
  const float d = half_to_float(block.d);
  const float dmin = half_to_float(block.dmin);
  for (int s = 0; s < 8; ++s) {
    int scale = 0;
    int minimum = 0;
    unpack_scale_min(block.scales, s, &scale, &minimum);
    const float step = d * static_cast<float>(scale);
    const float offset = dmin * static_cast<float>(minimum);
    const uint8_t* qs = block.qs + 32 * (s / 2);
    const int shift = 4 * (s % 2);
    for (int i = 0; i < 32; ++i) {
      const int q = ((qs[i] >> shift) & 15) | ((block.qh[i] >> s) & 1) << 4;
      x[32 * s + i] = step * static_cast<float>(q) - offset;
    }
  }
}

void decode_block(const BlockQ6_K& block, float* x) {
  const float d = half_to_float(block.d);
  for (int h = 0; h < 2; ++h) {
    for (int g = 0; g < 4; ++g) {
      for (int l = 0; l < 32; ++l) {
        const int i = 128 * h + 32 * g + l;
        const int low = (block.ql[64 * h + 32 * (g & 1) + l] >> (g < 2 ? 0 : 4)) & 15;
        const int high = (block.qh[32 * h + l] >> (2 * g)) & 3;
        const int8_t scale = block.scales[i / 16];
        const float step = d * static_cast<float>(scale);
        x[i] = step * static_cast<float>((low | high << 4) - 32);
      }
    }
  }
}

template <typename Block>
void decode_blocks(const uint8_t* source, float* destination, int64_t count, int64_t block_size) {
  for (int64_t b = 0; b < count / block_size; ++b) {
    Block block;
    std::memcpy(&block, source + b * static_cast<int64_t>(sizeof(Block)), sizeof(Block));
    decode_block(block, destination + b * block_size);
  }
}

template <typename T, typename Convert>
void convert_all(const uint8_t* source, float* destination, int64_t count, const Convert& convert) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    destination[i] = convert(value);
  }
}

template <typename T>
void convert_integers(const uint8_t* source, float* destination, int64_t count) {
  convert_all<T>(source, destination, count, [](T value) { return static_cast<float>(value); });
}

}  // namespace

void dequantize(WeightType type, const void* source, float* destination, int64_t count) {
  const auto* bytes = static_cast<const uint8_t*>(source);
  if (count <= 0) return;
  switch (type) {
    case WeightType::kF32:
      std::memcpy(destination, bytes, static_cast<size_t>(count) * sizeof(float));
      return;
    case WeightType::kF16:
      return convert_all<uint16_t>(bytes, destination, count, half_to_float);
    case WeightType::kBF16:
      return convert_all<uint16_t>(bytes, destination, count, bfloat16_to_float);
    case WeightType::kU8:
      return convert_integers<uint8_t>(bytes, destination, count);
    case WeightType::kI8:
      return convert_integers<int8_t>(bytes, destination, count);
    case WeightType::kI32:
      return convert_integers<int32_t>(bytes, destination, count);
    case WeightType::kI64:
      return convert_integers<int64_t>(bytes, destination, count);
    case WeightType::kQ4_0:
      return decode_blocks<BlockQ4_0>(bytes, destination, count, kBlockSize);
    case WeightType::kQ4_1:
      return decode_blocks<BlockQ4_1>(bytes, destination, count, kBlockSize);
    case WeightType::kQ5_0:
      return decode_blocks<BlockQ5_0>(bytes, destination, count, kBlockSize);
    case WeightType::kQ5_1:
      return decode_blocks<BlockQ5_1>(bytes, destination, count, kBlockSize);
    case WeightType::kQ8_0:
      return decode_blocks<BlockQ8_0>(bytes, destination, count, kBlockSize);
    case WeightType::kQ4_K:
      return decode_blocks<BlockQ4_K>(bytes, destination, count, kSuperBlockSize);
    case WeightType::kQ5_K:
      return decode_blocks<BlockQ5_K>(bytes, destination, count, kSuperBlockSize);
    case WeightType::kQ6_K:
      return decode_blocks<BlockQ6_K>(bytes, destination, count, kSuperBlockSize);
    case WeightType::kNF4:
    case WeightType::kFP4:
    case WeightType::kInt8Rows:
      break;
  }
  throw_error(ErrorCode::kInternal, "weight type ", weight_type_traits(type).name,
              " cannot be decoded without its state");
}

}  // namespace quarry
