#include "finetune/estimate.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "data/core/error.h"

namespace quarry {
namespace {

constexpr double kTrainedBytes = 16;  // float32 value, gradient and two moments

double optimizer_bytes(const TrainingShape& shape) {
  // Two codes and two float32 maxima a block of 256.
  constexpr double k8bitBytes = 2.0 + 8.0 / 256;
  constexpr double k32bitBytes = 8;
  const auto trainable = static_cast<double>(shape.count.trainable);
  const auto large = static_cast<double>(
      shape.optimizer == OptimizerKind::kAdamW8bit ? shape.count.in_large_tensors : 0);
  return large * k8bitBytes + (trainable - large) * k32bitBytes;
}

// Bytes of a row, as estimate.h has them.
struct RowBytes {
  double activations = 0;  // of the workspace
  double scratch = 0;      // of kernels
};

RowBytes row_bytes(const TrainingShape& shape) {
  constexpr double kFloatBytes = 4;
  constexpr double kCodeBytes = 1 + 8.0 / 64;
  const auto layers = static_cast<double>(shape.model.num_layers);
  const auto hidden = static_cast<double>(shape.model.hidden_size);
  const auto inner = static_cast<double>(shape.model.intermediate_size);
  const auto q = static_cast<double>(shape.q_width);
  const double qkv = q + 2 * static_cast<double>(shape.kv_width);
  const double in_layer = 4 * hidden + qkv + q + 3 * inner;
  const double in_all = in_layer * (shape.checkpointing ? 1 : layers);
  const double gradients = qkv + 2 * inner + inner;
  RowBytes bytes;
  double floats = 5 * hidden + gradients * (shape.is_exact ? 1 : 2);
  if (shape.checkpointing) floats += layers * hidden;
  if (shape.is_exact) floats += in_all;
  bytes.activations = kFloatBytes * floats + (shape.is_exact ? 0 : 2 * in_all);
  bytes.scratch = 2 * q * kFloatBytes + (shape.is_exact ? 0 : 3 * inner * kCodeBytes);
  return bytes;
}

}  // namespace

int64_t held_base_bytes(const BaseWeights& base, LoadIn load_in, bool is_exact) {
  constexpr int64_t kFloatBytes = 4;
  const int64_t values = base.linear_values + base.other_values;
  const int64_t others = base.file_bytes - base.linear_file_bytes;
  if (is_exact) return kFloatBytes * values;
  switch (load_in) {
    case LoadIn::kAsIs:
      break;
    case LoadIn::kNF4:
    case LoadIn::kFP4:
      return others + base.linear_values * 17 / 32;  // 4.25 bits
    case LoadIn::kInt8:
      return others + base.linear_values * 17 / 16;
    case LoadIn::kBF16:
      return 2 * values;
    case LoadIn::kF32:
      return kFloatBytes * values;
  }
  return base.file_bytes;
}

MemoryEstimate estimate_training(const TrainingShape& shape, const EstimateConstants& constants) {
  constexpr int64_t kFloatBytes = 4;
  const auto rows = static_cast<double>(shape.tokens);
  const RowBytes row = row_bytes(shape);
  MemoryEstimate estimate;
  estimate.base_bytes = shape.base_bytes;
  estimate.adapter_bytes = kFloatBytes * (2 * shape.count.trainable + shape.packed_parameters +
                                          2 * shape.start_parameters);
  estimate.optimizer_bytes = static_cast<int64_t>(optimizer_bytes(shape));
  estimate.activation_bytes = static_cast<int64_t>(rows * row.activations);
  estimate.logits_bytes = shape.logit_tokens * shape.model.vocab_size * kFloatBytes;
  estimate.checkpoint_bytes =
      kFloatBytes * (shape.count.trainable + shape.start_parameters) + estimate.optimizer_bytes;
  estimate.workspace_bytes = static_cast<int64_t>(
      rows * row.scratch + constants.thread_bytes * static_cast<double>(shape.threads));
  estimate.program_bytes =
      static_cast<int64_t>(constants.program_bytes +
                           constants.token_bytes * static_cast<double>(shape.model.vocab_size));
  return estimate;
}

std::string to_text(const MemoryEstimate& estimate) {
  const std::pair<const char*, int64_t> parts[] = {
      {"base          ", estimate.base_bytes},      {"adapters      ", estimate.adapter_bytes},
      {"optimizer     ", estimate.optimizer_bytes}, {"activations   ", estimate.activation_bytes},
      {"logits        ", estimate.logits_bytes},    {"checkpoint    ", estimate.checkpoint_bytes},
      {"workspace     ", estimate.workspace_bytes}, {"program       ", estimate.program_bytes},
      {"estimated peak", estimate.total()},
  };
  std::string out;
  for (const auto& [name, bytes] : parts) {
    out += concat(name, "  ", format_bytes(static_cast<double>(bytes)), "\n");
  }
  return out;
}

FrameworkEstimate estimate_framework(const ModelShape& model, const FrameworkOptions& options) {
  FrameworkEstimate estimate;
  const auto parameters = static_cast<double>(model.num_parameters);
  constexpr double kFloatBytes = 4;
  if (options.method == TuningMethod::kFull) {
    estimate.count.trainable = estimate.count.all = model.num_parameters;
    estimate.weight_bytes = kFloatBytes * parameters;
    estimate.training_bytes = (kTrainedBytes - kFloatBytes) * parameters;
  } else {
    estimate.count = count_trainable(model, options.adapter);
    estimate.weight_bytes = options.frozen_parameter_bytes * parameters;
    estimate.training_bytes = kTrainedBytes * static_cast<double>(estimate.count.trainable);
  }
  estimate.allowance_bytes =
      options.allowance_bytes + options.allowance_share * estimate.weight_bytes;
  estimate.total_bytes = estimate.weight_bytes + estimate.training_bytes + estimate.allowance_bytes;
  estimate.fits = estimate.total_bytes <= options.device_bytes;
  return estimate;
}

std::string format_bytes(double bytes) {
  std::array<char, 32> text;
  if (bytes >= 1e9) {
    std::snprintf(text.data(), text.size(), "%.2f GB", bytes / 1e9);
  } else {
    std::snprintf(text.data(), text.size(), "%.1f MB", bytes / 1e6);
  }
  return text.data();
}

}  // namespace quarry
