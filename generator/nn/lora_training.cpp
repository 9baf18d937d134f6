#include "generator/nn/lora_training.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/decode/random.h"
#include "generator/nn/lora_config.h"

namespace quarry {
namespace {

uint64_t mix(uint64_t x) { return SplitMix64(x).next(); }

uint64_t hash_text(const std::string& text) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

// [0, 1), from the upper 24 bits.
float unit(uint64_t bits) { return static_cast<float>(bits >> 40) * 0x1p-24f; }

// A's initial values; element i of a Linear depends on the seed, its path and i.
std::vector<float> initial_a(const std::string& init, const CausalLm::LinearSlot& slot,
                             int64_t rank, uint64_t seed) {
  const uint64_t stream = mix(seed) ^ hash_text(slot.path);
  std::vector<float> a(static_cast<size_t>(rank * slot.in_features));
  const float bound = 1.0f / std::sqrt(static_cast<float>(slot.in_features));
  for (size_t i = 0; i < a.size(); ++i) {
    const uint64_t bits = mix(stream + i);
    if (init == "gaussian") {  // Box and Muller 1958
      const double radius = std::sqrt(-2.0 * std::log(1.0 - unit(bits)));
      const double angle = 2.0 * M_PI * unit(mix(bits));
      a[i] = static_cast<float>(radius * std::cos(angle) / static_cast<double>(rank));
    } else {
      a[i] = bound * (2.0f * unit(bits) - 1.0f);
    }
  }
  return a;
}

}  // namespace

LoraGradients::LoraGradients(const LoraAdapter& adapter) {
  for (const auto& [path, weights] : adapter.weights()) {
    Pair& pair = pairs_[path];
    pair.a.resize(weights.a.size());
    pair.b.resize(weights.b.size());
  }
}

LoraGradients::Pair& LoraGradients::at(const std::string& linear_path) {
  const auto it = pairs_.find(linear_path);
  QUARRY_DCHECK(it != pairs_.end());
  return it->second;
}

void LoraGradients::zero() {
  for (auto& [path, pair] : pairs_) {
    std::fill(pair.a.begin(), pair.a.end(), 0.0f);
    std::fill(pair.b.begin(), pair.b.end(), 0.0f);
  }
}

void LoraGradients::set_dropout(float probability, uint64_t seed) {
  QUARRY_CHECK(probability >= 0.0f && probability < 1.0f, ErrorCode::kInvalidArgument,
               "lora_dropout is ", probability, ", wanted at least 0 and below 1");
  dropout_ = probability;
  seed_ = seed;
}

void LoraGradients::drop(const std::string& linear_path, int64_t rows, int64_t width,
                         float* x) const {
  const uint64_t stream = mix(seed_) ^ hash_text(linear_path);
  const float keep = 1.0f / (1.0f - dropout_);
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * width; i < end * width; ++i) {
      x[i] = unit(mix(stream + static_cast<uint64_t>(i))) < dropout_ ? 0.0f : x[i] * keep;
    }
  });
}

std::unique_ptr<LoraAdapter> create_adapter(const LoraConfig& config,
                                            const std::vector<CausalLm::LinearSlot>& slots,
                                            const std::string& init_lora_weights, uint64_t seed) {
  QUARRY_CHECK(init_lora_weights == "true" || init_lora_weights == "gaussian",
               ErrorCode::kInvalidArgument, "init_lora_weights is '", init_lora_weights,
               "', wanted true or gaussian");
  std::map<std::string, LoraWeights> weights;
  for (const CausalLm::LinearSlot& slot : slots) {
    if (!config.targets(slot.path, slot.path == "lm_head")) continue;
    LoraWeights& pair = weights[slot.path];
    pair.rank = config.rank(slot.path);
    pair.scale = static_cast<float>(config.scale(slot.path));
    pair.a = initial_a(init_lora_weights, slot, pair.rank, seed);
    pair.b.resize(static_cast<size_t>(slot.out_features * pair.rank));
    pair.pack();
  }
  QUARRY_CHECK(!weights.empty(), ErrorCode::kInvalidArgument, "target_modules ",
               config.target_text(), " match no Linear of this model",
               slots.empty() ? "" : "; it has for instance '",
               slots.empty() ? "" : slots.front().path + "'");
  return std::make_unique<LoraAdapter>(std::move(weights));
}

}  // namespace quarry
