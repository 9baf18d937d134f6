#include "data/core/error.h"
#include "generator/nn/lora.h"

namespace quarry {

void LoraWeights::pack() {
  QUARRY_DCHECK(rank > 0);
  const int64_t in_features = static_cast<int64_t>(a.size()) / rank;
  const int64_t out_features = static_cast<int64_t>(b.size()) / rank;
  std::vector<float> scaled_b(b);
  for (float& value : scaled_b) value *= scale;
  packed_a = kernels::pack_matrix(WeightType::kF32, a.data(), rank, in_features,
                                  kernels::Precision::kExact);
  packed_b = kernels::pack_matrix(WeightType::kF32, scaled_b.data(), out_features, rank,
                                  kernels::Precision::kExact);
}

}  // namespace quarry
