#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "finetune/config.h"
#include "finetune/model_shape.h"

namespace quarry {

// Where the bytes of a run go.
struct MemoryEstimate {
  int64_t base_bytes = 0;     // frozen weights
  int64_t adapter_bytes = 0;  // trainable values and their gradients
  int64_t optimizer_bytes = 0;
  int64_t activation_bytes = 0;  // kept for backward, and scratch of the layer at work
  int64_t logits_bytes = 0;
  int64_t workspace_bytes = 0;  // the program itself, packed weights, buffers of the kernels
  int64_t total() const {
    return base_bytes + adapter_bytes + optimizer_bytes + activation_bytes + logits_bytes +
           workspace_bytes;
  }
};

// Constants of estimate_training() that only a measurement can give.
struct EstimateConstants {
  double program_bytes = 90e6;       // resident before a model is loaded
  double threads_bytes = 8e6;        // scratch of each thread
  double saved_hidden_rows = 1;      // [T, hidden] kept per layer with activation checkpointing
  double saved_hidden_rows_all = 9;  // ... and without, with ...
  double saved_intermediate_rows_all = 3;  // ... this many of [T, intermediate]
  double working_hidden_rows = 12;         // of the layer at work, values and gradients
  double working_intermediate_rows = 5;
  double logits_copies = 2;  // logits and their gradient, float32
};

struct TrainingShape {
  ModelShape model;
  int64_t base_bytes = 0;  // of the weights as they are held
  int64_t trainable_parameters = 0;
  int64_t trainable_in_8bit = 0;         // of these: in tensors of at least 4096 elements
  int64_t tokens = 0;                    // of one forward pass
  int64_t target_tokens = 0;             // of these: rows of the logits
  int64_t activation_element_bytes = 2;  // 2: bf16, 4: f32
  bool checkpointing = true;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  int64_t threads = 1;
};

// Peak memory of our own training.
MemoryEstimate estimate_training(const TrainingShape& shape,
                                 const EstimateConstants& constants = {});

// The adapter's trainable values, by the rules of PEFT (LoraConfig), of a model known by shape.
TrainableCount count_trainable(const ModelShape& model, const LoraSettings& settings);

enum class TuningMethod { kFull, kLora };

struct FrameworkEstimateOptions {
  TuningMethod method = TuningMethod::kLora;
  int64_t frozen_bytes_per_parameter = 4;  // float32; 2 for bf16
  // Batch of the published runs that the allowance below was set by.
  double activation_share = 0.03;   // of the bytes of weights ...
  double activation_bytes = 1.5e9;  // ... and this
  LoraSettings adapter;             // kLora: r = 8 ...
  double device_bytes = 80e9;       // "fits" is against this
};

struct FrameworkEstimate {
  TrainableCount count;
  double weight_bytes = 0;
  double training_bytes = 0;  // gradients and both Adam moments, float32
  double activation_bytes = 0;
  double total_bytes = 0;
  bool fits = false;
};

// Peak device memory of fine-tuning with a framework that keeps float32 weights and Adam: full is
// 16 bytes a parameter, LoRA 4 a frozen one and 16 a trainable one, and an allowance.
FrameworkEstimate estimate_framework(const ModelShape& model,
                                     const FrameworkEstimateOptions& options);

}  // namespace quarry
