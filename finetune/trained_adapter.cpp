#include "finetune/trained_adapter.h"

#include <cstring>
#include <utility>

namespace quarry {

TrainedAdapter::TrainedAdapter(const LoraConfig& config, LoraAdapter& adapter, std::string prefix)
    : config_(config), adapter_(adapter), prefix_(std::move(prefix)), gradients_(adapter) {}

std::vector<ParameterView> TrainedAdapter::parameters() {
  std::vector<ParameterView> views;
  const auto add = [&](const std::string& name, std::vector<float>& values,
                       const std::vector<float>& gradient) {
    ParameterView view;
    view.name = prefix_ + name;
    view.value = values.data();
    view.gradient = gradient.data();
    view.size = static_cast<int64_t>(values.size());
    view.learning_rate_scale = learning_rate_scale_;
    views.push_back(std::move(view));
  };
  for (auto& [path, weights] : adapter_.mutable_weights()) {
    const LoraGradients::Pair& gradient = gradients_.at(path);
    add("base_model.model." + path + ".lora_A.weight", weights.a, gradient.a);
    add("base_model.model." + path + ".lora_B.weight", weights.b, gradient.b);
  }
  for (auto& [name, tensor] : adapter_.mutable_full()) {
    add(config_.stored_name(name), tensor.values, gradients_.full_at(name));
    views.back().decay = tensor.shape.size() > 1;
  }
  return views;
}

std::vector<GradientView> TrainedAdapter::gradient_views() {
  std::vector<GradientView> views;
  for (auto& [path, pair] : gradients_.pairs()) {
    views.push_back({pair.a.data(), static_cast<int64_t>(pair.a.size())});
    views.push_back({pair.b.data(), static_cast<int64_t>(pair.b.size())});
  }
  for (auto& [name, gradient] : gradients_.full()) {
    views.push_back({gradient.data(), static_cast<int64_t>(gradient.size())});
  }
  return views;
}

void TrainedAdapter::pack() {
  for (auto& [path, weights] : adapter_.mutable_weights()) weights.pack();
  for (auto& [name, tensor] : adapter_.mutable_full()) tensor.pack();
}

uint64_t hash_of_values(const std::vector<ParameterView>& parameters) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over 32-bit words
  for (const ParameterView& view : parameters) {
    for (int64_t i = 0; i < view.size; ++i) {
      uint32_t bits;
      std::memcpy(&bits, view.value + i, sizeof(bits));
      hash = (hash ^ bits) * 0x100000001b3u;
    }
  }
  return hash;
}

}  // namespace quarry
