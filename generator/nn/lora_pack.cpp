#include "data/core/error.h"
#include "generator/nn/lora.h"

namespace quarry {

void LoraWeights::pack() {
  QUARRY_DCHECK(rank > 0);
  const int64_t in_features = static_cast<int64_t>(a.size()) / rank;
  const int64_t out_features = static_cast<int64_t>(b.size()) / rank;
  packed_a = kernels::pack_matrix(WeightType::kF32, a.data(), rank, in_features,
                                  kernels::Precision::kExact);
  scaled_b.resize(b.size());
  for (int64_t i = 0; i < out_features; ++i) {
    for (int64_t r = 0; r < rank; ++r) {
      scaled_b[static_cast<size_t>(r * out_features + i)] =
          scale * b[static_cast<size_t>(i * rank + r)];
    }
  }
}

kernels::LowRankPair LoraWeights::beside(const kernels::LowRankForm& form) const {
  return {form,
          a.data(),
          scaled_b.data(),
          rank,
          static_cast<int64_t>(b.size()) / rank,
          static_cast<int64_t>(a.size()) / rank};
}

const LinearUpdates& LoraAdapter::updates_at(size_t linear_number,
                                             const std::function<LinearUpdates()>& make) const {
  const std::lock_guard<std::mutex> lock(updates_->mutex);
  auto& made = updates_->made;
  if (made.size() <= linear_number) made.resize(linear_number + 1);
  if (made[linear_number] == nullptr) {
    made[linear_number] = std::make_unique<const LinearUpdates>(make());
  }
  // A step comes by every Linear, and finds nothing of the last one in cache.
  if (linear_number + 1 < made.size()) __builtin_prefetch(made[linear_number + 1].get());
  return *made[linear_number];
}

void FullTensor::pack() {
  if (use != CausalLm::TensorSlot::Use::kLinear) return;
  packed = kernels::pack_matrix(WeightType::kF32, values.data(), shape[0], shape[1],
                                kernels::Precision::kExact);
}

LoraWeights to_plain_lora(const LoraWeights& weights) {
  LoraWeights plain = weights;
  if (weights.start == nullptr) return plain;
  plain.start = nullptr;
  plain.rank = 2 * weights.rank;
  plain.a.insert(plain.a.end(), weights.start->a.begin(), weights.start->a.end());
  plain.b.clear();
  for (size_t at = 0; at < weights.b.size(); at += static_cast<size_t>(weights.rank)) {
    for (int64_t i = 0; i < weights.rank; ++i) plain.b.push_back(weights.b[at + i]);
    for (int64_t i = 0; i < weights.rank; ++i) plain.b.push_back(-weights.start->b[at + i]);
  }
  plain.pack();
  return plain;
}

std::shared_ptr<const void> LoraAdapter::on_device(
    const std::function<std::shared_ptr<const void>()>& make) const {
  std::shared_ptr<const void> form = std::atomic_load(&on_device_);
  if (form == nullptr) {
    form = make();
    std::atomic_store(&on_device_, form);
  }
  return form;
}

}  // namespace quarry
