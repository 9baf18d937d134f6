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

// Element i depends on the seed, the Linear's path and i.
uint64_t stream_of(const CausalLm::LinearSlot& slot, uint64_t seed) {
  return mix(seed) ^ hash_text(slot.path);
}

// U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)).
void draw_kaiming(int64_t fan_in, uint64_t stream, std::vector<float>& values) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(fan_in));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = bound * (2.0f * unit(mix(stream + i)) - 1.0f);
  }
}

// N(0, 1 / rank^2) (Box and Muller 1958).
void draw_gaussian(int64_t rank, uint64_t stream, std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t bits = mix(stream + i);
    const double radius = std::sqrt(-2.0 * std::log(1.0 - unit(bits)));
    const double angle = 2.0 * M_PI * unit(mix(bits));
    values[i] = static_cast<float>(radius * std::cos(angle) / static_cast<double>(rank));
  }
}

}  // namespace

LoraGradients::LoraGradients(const LoraAdapter& adapter) {
  for (const auto& [path, weights] : adapter.weights()) {
    Pair& pair = pairs_[path];
    pair.a.resize(weights.a.size());
    pair.b.resize(weights.b.size());
  }
  for (const auto& [name, tensor] : adapter.full()) full_[name].resize(tensor.values.size());
}

LoraGradients::Pair& LoraGradients::at(const std::string& linear_path) {
  const auto it = pairs_.find(linear_path);
  QUARRY_DCHECK(it != pairs_.end());
  return it->second;
}

std::vector<float>& LoraGradients::full_at(const std::string& name) {
  const auto it = full_.find(name);
  QUARRY_DCHECK(it != full_.end());
  return it->second;
}

void LoraGradients::zero() {
  for (auto& [path, pair] : pairs_) {
    std::fill(pair.a.begin(), pair.a.end(), 0.0f);
    std::fill(pair.b.begin(), pair.b.end(), 0.0f);
  }
  for (auto& [name, gradient] : full_) std::fill(gradient.begin(), gradient.end(), 0.0f);
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
  const bool gaussian = init_lora_weights == "gaussian";
  const bool random_b = init_lora_weights == "false";
  QUARRY_CHECK(gaussian || random_b || init_lora_weights == "true", ErrorCode::kInvalidArgument,
               "init_lora_weights is '", init_lora_weights, "', wanted true, false or gaussian");
  check_disjoint(config, slots);
  std::map<std::string, LoraWeights> weights;
  for (const CausalLm::LinearSlot& slot : slots) {
    if (!config.targets(slot.path, slot.path == "lm_head")) continue;
    LoraWeights& pair = weights[slot.path];
    pair.rank = config.rank(slot.path);
    pair.scale = static_cast<float>(config.scale(slot.path));
    pair.a.resize(static_cast<size_t>(pair.rank * slot.in_features));
    pair.b.resize(static_cast<size_t>(slot.out_features * pair.rank));
    const uint64_t stream = stream_of(slot, seed);
    if (gaussian) {
      draw_gaussian(pair.rank, stream, pair.a);
    } else {
      draw_kaiming(slot.in_features, stream, pair.a);
    }
    if (random_b) draw_kaiming(pair.rank, mix(stream), pair.b);
    pair.pack();
  }
  QUARRY_CHECK(!weights.empty(), ErrorCode::kInvalidArgument, "target_modules ",
               config.target_text(), " match no Linear of this model",
               slots.empty() ? "" : "; it has for instance '",
               slots.empty() ? "" : slots.front().path + "'");
  return std::make_unique<LoraAdapter>(std::move(weights));
}

}  // namespace quarry
