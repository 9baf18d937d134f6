#include "finetune/trainer.h"

#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "finetune/packer.h"

namespace quarry {
namespace {

int64_t count_targets(const TrainingSequence& sequence) {
  return std::count_if(sequence.is_target.begin(), sequence.is_target.end(),
                       [](uint8_t target) { return target != 0; });
}

// A pass asks for as much memory as the one before: pages that go back to the system in between are
// cleared and mapped again, for 3 % of the time.
void keep_freed_pages() {
#ifdef M_TRIM_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // namespace

Trainer::Trainer(const CausalLm& model, const LoraConfig& config, LoraAdapter& adapter,
                 Optimizer& optimizer, const TrainerOptions& options)
    : model_(model),
      config_(config),
      adapter_(adapter),
      optimizer_(optimizer),
      options_(options),
      gradients_(adapter) {
  keep_freed_pages();
  QUARRY_CHECK(options_.micro_batch_tokens > 0, ErrorCode::kInvalidArgument,
               "micro_batch_tokens is ", options_.micro_batch_tokens, ", wanted at least 1");
}

std::vector<ParameterView> Trainer::parameters() {
  std::vector<ParameterView> views;
  for (auto& [path, weights] : adapter_.mutable_weights()) {
    LoraGradients::Pair& gradient = gradients_.at(path);
    const std::string prefix = "base_model.model." + path;
    views.push_back({prefix + ".lora_A.weight", weights.a.data(), gradient.a.data(),
                     static_cast<int64_t>(weights.a.size())});
    views.push_back({prefix + ".lora_B.weight", weights.b.data(), gradient.b.data(),
                     static_cast<int64_t>(weights.b.size())});
  }
  for (auto& [name, tensor] : adapter_.mutable_full()) {
    ParameterView view;
    view.name = config_.stored_name(name);
    view.value = tensor.values.data();
    view.gradient = gradients_.full_at(name).data();
    view.size = static_cast<int64_t>(tensor.values.size());
    view.decay = tensor.shape.size() > 1;
    views.push_back(std::move(view));
  }
  return views;
}

void Trainer::pack() {
  for (auto& [path, weights] : adapter_.mutable_weights()) weights.pack();
  for (auto& [name, tensor] : adapter_.mutable_full()) tensor.pack();
}

uint64_t Trainer::hash_of_parameters() {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over 32-bit words
  for (const ParameterView& view : parameters()) {
    for (int64_t i = 0; i < view.size; ++i) {
      uint32_t bits;
      std::memcpy(&bits, view.value + i, sizeof(bits));
      hash = (hash ^ bits) * 0x100000001b3u;
    }
  }
  return hash;
}

void Trainer::check_batch(const std::vector<TrainingSequence>& batch) const {
  QUARRY_CHECK(!batch.empty(), ErrorCode::kInvalidArgument, "a batch without a sequence");
  for (const TrainingSequence& sequence : batch) {
    QUARRY_CHECK(sequence.tokens.size() == sequence.is_target.size() &&
                     sequence.tokens.size() >= 2 && count_targets(sequence) > 0,
                 ErrorCode::kInvalidArgument, "sequence '", sequence.id,
                 "': none of its tokens counts in the loss (all labels are masked)");
  }
}

StepResult Trainer::step(const std::vector<TrainingSequence>& batch, double learning_rate) {
  check_batch(batch);
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  result.sequences = static_cast<int64_t>(batch.size());
  for (const TrainingSequence& sequence : batch) {
    result.tokens += static_cast<int64_t>(sequence.tokens.size());
    result.targets += count_targets(sequence);
  }
  const float weight = static_cast<float>(1.0 / static_cast<double>(result.targets));
  gradients_.zero();
  uint64_t pass = 0;
  double total = 0.0;
  for (const TokenTree& tree :
       pack_sequences(batch, options_.micro_batch_tokens, options_.packing, weight)) {
    gradients_.set_dropout(options_.lora_dropout,
                           options_.seed + static_cast<uint64_t>(result.step) * 1000003 + pass++);
    result.rows += static_cast<int64_t>(tree.tokens.size());
    for (const float loss :
         model_.accumulate_gradients(tree, adapter_, options_.gradient, gradients_)) {
      total += double{loss};
    }
  }
  result.loss = total / static_cast<double>(result.targets);

  std::vector<GradientView> views;
  for (auto& [path, pair] : gradients_.pairs()) {
    views.push_back({pair.a.data(), static_cast<int64_t>(pair.a.size())});
    views.push_back({pair.b.data(), static_cast<int64_t>(pair.b.size())});
  }
  for (auto& [name, gradient] : gradients_.full()) {
    views.push_back({gradient.data(), static_cast<int64_t>(gradient.size())});
  }
  result.gradient_norm = clip_gradients(views, options_.max_grad_norm);
  QUARRY_CHECK(std::isfinite(result.loss) && std::isfinite(result.gradient_norm),
               ErrorCode::kInternal, "step ", result.step, ": the loss is ", result.loss,
               " and the gradient's norm ", result.gradient_norm, " (batch from '",
               batch.front().id, "' on); the adapter is as step ", steps_taken_, " left it");
  // A training that silently learns nothing costs a night.
  const bool is_first = steps_taken_ == 0;
  const uint64_t before = is_first ? hash_of_parameters() : 0;
  optimizer_.step(parameters(), learning_rate);
  pack();
  ++steps_taken_;
  QUARRY_CHECK(!is_first || hash_of_parameters() != before, ErrorCode::kInternal,
               "after the first step the adapter is as it was before: it learns nothing (is the "
               "learning rate 0?)");
  return result;
}

double Trainer::evaluate(const std::vector<TrainingSequence>& sequences) const {
  check_batch(sequences);
  double total = 0.0;
  int64_t targets = 0;
  for (const TokenTree& tree :
       pack_sequences(sequences, options_.micro_batch_tokens, options_.packing, 1.0f)) {
    for (const float loss : model_.target_losses(tree, &adapter_)) total += double{loss};
    targets += static_cast<int64_t>(tree.targets.size());
  }
  return total / static_cast<double>(targets);
}

}  // namespace quarry
