// Built with -ffp-contract=off: every rounding step is part of the result.
#include "generator/quant/four_bit.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/dynamic_map.h"
#include "generator/quant/four_bit_twins.h"
#include "generator/quant/pytorch_sum.h"

namespace quarry {
namespace {

constexpr std::array<float, 16> kNF4Values = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
// By bit pattern: sign in bit 3, the magnitudes in no order.
constexpr std::array<float, 16> kFP4Values = {
    0.0f,
    0.0052083334885537624f,
    0.6666666865348816f,
    1.0f,
    0.3333333432674408f,
    0.5f,
    0.1666666716337204f,
    0.25f,
    0.0f,
    -0.0052083334885537624f,
    -0.6666666865348816f,
    -1.0f,
    -0.3333333432674408f,
    -0.5f,
    -0.1666666716337204f,
    -0.25f,
};

// A smaller absmax counts as this one, so that its reciprocal is finite.
constexpr float kSmallestAbsmax = 1e-38f;

// The codes by value, and the points between neighbours. A value on a point takes the lower code.
struct DecisionTree {
  std::array<uint8_t, 16> order;
  std::array<float, 15> points;
};

DecisionTree make_tree(const std::array<float, 16>& values, const std::array<uint8_t, 16>& order) {
  DecisionTree tree = {order, {}};
  for (size_t i = 0; i < tree.points.size(); ++i) {
    tree.points[i] = (values[order[i]] + values[order[i + 1]]) / 2.0f;
  }
  return tree;
}

const DecisionTree& decision_tree(WeightType type) {
  static const DecisionTree nf4 =
      make_tree(kNF4Values, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
  // Two codes decode to 0: values down to -1/384 take 0, those up to 1/384 take 8.
  static const DecisionTree fp4 =
      make_tree(kFP4Values, {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3});
  return type == WeightType::kNF4 ? nf4 : fp4;
}

// Values scaled to [-1, 1] by their absmax, which is returned: infinite or NaN when a value is.
// Whole blocks multiply by the reciprocal; a partial one divides and keeps the raised absmax, as
// bitsandbytes has it.
float scale_block(const float* values, int64_t size, int64_t block_size, float* scaled) {
  uint32_t largest_bits = 0;  // of magnitudes: ordered as the floats are, NaN above infinity
  for (int64_t i = 0; i < size; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    largest_bits = std::max(largest_bits, bits & 0x7fffffffu);
  }
  float absmax;
  std::memcpy(&absmax, &largest_bits, sizeof(absmax));
  const float divisor = absmax < kSmallestAbsmax ? kSmallestAbsmax : absmax;
  if (size == block_size) {
    const float factor = 1.0f / divisor;
    for (int64_t i = 0; i < size; ++i) {
      scaled[i] = std::min(std::max(values[i] * factor, -1.0f), 1.0f);
    }
    return absmax;
  }
  for (int64_t i = 0; i < size; ++i) {
    scaled[i] = std::min(std::max(values[i] / divisor, -1.0f), 1.0f);
  }
  return divisor;
}

// `ranks` is scratch for size + 1 numbers.
void encode_block(const DecisionTree& tree, const float* scaled, int64_t size, int32_t* ranks,
                  uint8_t* codes) {
  std::fill(ranks, ranks + size, 0);
  for (const float point : tree.points) {
    for (int64_t i = 0; i < size; ++i) ranks[i] += static_cast<int32_t>(scaled[i] > point);
  }
  // An odd count is padded with 0, which both types have at rank 7.
  ranks[size] = 7;
  for (int64_t i = 0; i < size; i += 2) {
    const uint8_t first = tree.order[static_cast<size_t>(ranks[i])];
    const uint8_t second = tree.order[static_cast<size_t>(ranks[i + 1])];
    codes[i / 2] = static_cast<uint8_t>(first << 4 | second);
  }
}

int64_t num_blocks(int64_t count, int64_t block_size) {
  return (count + block_size - 1) / block_size;
}

NestedAbsmax nest_absmax(const std::vector<float>& absmax) {
  const DynamicMap& map = signed_dynamic_map();
  const auto count = static_cast<int64_t>(absmax.size());
  NestedAbsmax nested;
  nested.map = map.values;
  nested.offset = sum_as_pytorch(absmax.data(), count) / static_cast<float>(count);
  nested.codes.resize(absmax.size());
  float centered[kNestedBlock];
  for (int64_t begin = 0; begin < count; begin += kNestedBlock) {
    const int64_t size = std::min(kNestedBlock, count - begin);
    for (int64_t i = 0; i < size; ++i) {
      centered[i] = absmax[static_cast<size_t>(begin + i)] - nested.offset;
    }
    nested.absmax.push_back(scale_block(centered, size, kNestedBlock, centered));
    for (int64_t i = 0; i < size; ++i) {
      nested.codes[static_cast<size_t>(begin + i)] = nearest_code(map, centered[i]);
    }
  }
  return nested;
}

}  // namespace

const std::array<float, 16>& four_bit_codebook(WeightType type) {
  return type == WeightType::kNF4 ? kNF4Values : kFP4Values;
}

void check_four_bit_block(int64_t block_size, const std::string& what) {
  QUARRY_CHECK(block_size >= 32 && block_size <= 4096 && (block_size & (block_size - 1)) == 0,
               ErrorCode::kInvalidArgument, what, ": block size ", block_size,
               ", wanted a power of two from 32 to 4096");
}

std::vector<float> decode_absmax(const NestedAbsmax& nested) {
  std::vector<float> absmax(nested.codes.size());
  for (size_t i = 0; i < absmax.size(); ++i) {
    const float scaled = nested.map[nested.codes[i]] * nested.absmax[i / size_t{kNestedBlock}];
    absmax[i] = scaled + nested.offset;
  }
  return absmax;
}

FourBitCodes quantize_four_bit(const float* values, int64_t count, const FourBitOptions& options) {
  check_four_bit_block(options.block_size, "4-bit quantization");
  const DecisionTree& tree = decision_tree(options.type);
  const int64_t block_size = options.block_size;
  const int64_t blocks = num_blocks(count, block_size);
  FourBitCodes result;
  result.codes.resize(static_cast<size_t>((count + 1) / 2));
  result.state.block_size = block_size;
  result.state.absmax.resize(static_cast<size_t>(blocks));
  parallel_for(blocks, std::max<int64_t>(1, 65536 / block_size), [&](int64_t begin, int64_t end) {
    std::vector<float> scaled(static_cast<size_t>(block_size));
    std::vector<int32_t> ranks(static_cast<size_t>(block_size) + 1);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * block_size;
      const int64_t size = std::min(block_size, count - first);
      result.state.absmax[static_cast<size_t>(b)] =
          scale_block(values + first, size, block_size, scaled.data());
      encode_block(tree, scaled.data(), size, ranks.data(), result.codes.data() + first / 2);
    }
  });
  for (const float absmax : result.state.absmax) {
    QUARRY_CHECK(std::isfinite(absmax), ErrorCode::kInvalidArgument,
                 "4-bit quantization: a value is not finite");
  }
  if (options.double_quant && count > 0) {
    result.state.nested = nest_absmax(result.state.absmax);
    result.state.absmax = decode_absmax(*result.state.nested);
  }
  return result;
}

void portable::decode_four_bit(const float* codebook, const float* absmax, int64_t block_size,
                               const uint8_t* codes, int64_t begin, int64_t end,
                               float* destination) {
  for (int64_t i = begin; i < end; ++i) {
    const uint8_t pair = codes[i / 2];
    destination[i - begin] = codebook[i % 2 == 0 ? pair >> 4 : pair & 15] * absmax[i / block_size];
  }
}

void dequantize_four_bit(WeightType type, const QuantState& state, const uint8_t* codes,
                         int64_t begin, int64_t end, float* destination) {
  const float* codebook = four_bit_codebook(type).data();
  const auto decode =
      cpu_isa() == CpuIsa::kAvx512 ? avx512::decode_four_bit : portable::decode_four_bit;
  constexpr int64_t kGrain = 65536;
  parallel_for(end - begin, kGrain, [&](int64_t first, int64_t last) {
    decode(codebook, state.absmax.data(), state.block_size, codes, begin + first, begin + last,
           destination + first);
  });
}

}  // namespace quarry
