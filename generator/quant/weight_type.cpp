#include "generator/quant/weight_type.h"

#include "data/core/error.h"
#include "generator/quant/blocks.h"

namespace quarry {
namespace {

using namespace quant;

constexpr WeightTypeTraits kF32{"F32", 1, 4};
constexpr WeightTypeTraits kF16{"F16", 1, 2};
constexpr WeightTypeTraits kBF16{"BF16", 1, 2};
constexpr WeightTypeTraits kU8{"U8", 1, 1};
constexpr WeightTypeTraits kI8{"I8", 1, 1};
constexpr WeightTypeTraits kI32{"I32", 1, 4};
constexpr WeightTypeTraits kI64{"I64", 1, 8};
constexpr WeightTypeTraits kQ4_0{"Q4_0", kBlockSize, sizeof(BlockQ4_0)};
constexpr WeightTypeTraits kQ4_1{"Q4_1", kBlockSize, sizeof(BlockQ4_1)};
constexpr WeightTypeTraits kQ5_0{"Q5_0", kBlockSize, sizeof(BlockQ5_0)};
constexpr WeightTypeTraits kQ5_1{"Q5_1", kBlockSize, sizeof(BlockQ5_1)};
constexpr WeightTypeTraits kQ8_0{"Q8_0", kBlockSize, sizeof(BlockQ8_0)};
constexpr WeightTypeTraits kQ4_K{"Q4_K", kSuperBlockSize, sizeof(BlockQ4_K)};
constexpr WeightTypeTraits kQ5_K{"Q5_K", kSuperBlockSize, sizeof(BlockQ5_K)};
constexpr WeightTypeTraits kQ6_K{"Q6_K", kSuperBlockSize, sizeof(BlockQ6_K)};
constexpr WeightTypeTraits kNF4{"NF4", 2, 1};
constexpr WeightTypeTraits kFP4{"FP4", 2, 1};
constexpr WeightTypeTraits kInt8Rows{"INT8", 1, 1};

}  // namespace

const WeightTypeTraits& weight_type_traits(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return kF32;
    case WeightType::kF16:
      return kF16;
    case WeightType::kBF16:
      return kBF16;
    case WeightType::kU8:
      return kU8;
    case WeightType::kI8:
      return kI8;
    case WeightType::kI32:
      return kI32;
    case WeightType::kI64:
      return kI64;
    case WeightType::kQ4_0:
      return kQ4_0;
    case WeightType::kQ4_1:
      return kQ4_1;
    case WeightType::kQ5_0:
      return kQ5_0;
    case WeightType::kQ5_1:
      return kQ5_1;
    case WeightType::kQ8_0:
      return kQ8_0;
    case WeightType::kQ4_K:
      return kQ4_K;
    case WeightType::kQ5_K:
      return kQ5_K;
    case WeightType::kQ6_K:
      return kQ6_K;
    case WeightType::kNF4:
      return kNF4;
    case WeightType::kFP4:
      return kFP4;
    case WeightType::kInt8Rows:
      return kInt8Rows;
  }
  throw_error(ErrorCode::kInternal, "weight type ", static_cast<int>(type), " is not in the list");
}

int64_t weight_bytes(WeightType type, int64_t count) {
  const WeightTypeTraits& traits = weight_type_traits(type);
  return (count + traits.block_size - 1) / traits.block_size * traits.bytes_per_block;
}

}  // namespace quarry
