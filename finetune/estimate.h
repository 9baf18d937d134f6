#pragma once

#include <cstdint>
#include <string>

#include "finetune/model_shape.h"
#include "finetune/optimizer.h"
#include "generator/models/generator_memory.h"
#include "generator/quant/weight_options.h"

namespace quarry {

// Where the bytes of our own training go.
struct MemoryEstimate {
  int64_t base_bytes = 0;        // frozen weights as they are held
  int64_t adapter_bytes = 0;     // trainable values, gradients and what kernels read, float32
  int64_t optimizer_bytes = 0;   // its state
  int64_t activation_bytes = 0;  // kept for backward, and those of the layer at work
  int64_t logits_bytes = 0;
  // Copies of parameters and optimizer that are written to a checkpoint.
  int64_t checkpoint_bytes = 0;
  int64_t workspace_bytes = 0;  // scratch of the kernels
  int64_t program_bytes = 0;    // the program itself and the tokenizer
  int64_t total() const {
    return base_bytes + adapter_bytes + optimizer_bytes + activation_bytes + logits_bytes +
           checkpoint_bytes + workspace_bytes + program_bytes;
  }
};

// A base model's weights in their file: those of Linears, which model.load_in changes, and others.
struct BaseWeights {
  int64_t file_bytes = 0;  // of all
  int64_t linear_file_bytes = 0;
  int64_t linear_values = 0;
  int64_t other_values = 0;
};
// What the weights take in memory, packed for training. is_exact: in float32 (training.compute).
int64_t held_base_bytes(const BaseWeights& base, LoadIn load_in, bool is_exact);

// What only a measurement can tell.
struct EstimateConstants : ProgramMemory {
  double thread_bytes = 4e6;  // a panel of W^T and one head's attention, each thread
};

struct TrainingShape {
  ModelShape model;
  int64_t q_width = 0;   // of all query heads
  int64_t kv_width = 0;  // of all key heads; the values are as wide
  TrainableCount count;
  int64_t packed_parameters = 0;  // of matrices that kernels read from a copy of their own
  int64_t start_parameters = 0;   // of PiSSA's starting pairs, kept twice
  int64_t base_bytes = 0;
  int64_t tokens = 0;        // rows of the largest pass
  int64_t logit_tokens = 0;  // rows whose logits exist at once
  bool is_exact = false;     // all in float32; else activations are kept in bf16
  bool checkpointing = true;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  int64_t threads = 1;
};

// Peak memory of our own training. A row of a pass takes, with E hidden_size, F intermediate_size,
// Q q_width and W = Q + 2 kv_width, for a layer's backward (inputs of the two norms, of qkv and of
// gate_up; q, k and v; inputs of o, of the gated product and of down):
//   kept = 4 E + W + Q + 3 F   elements of bf16 or float32
// in every layer; with checkpointing one float32 E in every layer and `kept` in one of them. The
// layer at work has, in float32, three E, two sums of gradients of E, and the gradients of W, 2 F
// and F; with bf16 also these values themselves, restored. The kernels' scratch is 2 Q floats of
// the attention's backward and, unless is_exact, inputs of F and 2 F columns in a byte each with
// eight more for every 64.
MemoryEstimate estimate_training(const TrainingShape& shape,
                                 const EstimateConstants& constants = {});

// A line for each part and the total, for people.
std::string to_text(const MemoryEstimate& estimate);

enum class TuningMethod { kFull, kLora };

struct FrameworkOptions {
  TuningMethod method = TuningMethod::kLora;
  LoraSettings adapter;               // kLora; without targets: the family's defaults
  double frozen_parameter_bytes = 4;  // of kLora: 4 for float32, 2 for bf16
  double device_bytes = 80e9;
  // Allowance for activations, logits and the framework itself: so much and this share of the
  // weights. From PEFT's published peaks of LoRA (batch 8, A100): 14.4 GB for T0_3B, 56 for
  // mt0-xxl, 32 for bloomz-7b1; other batches differ.
  double allowance_bytes = 2.5e9;
  double allowance_share = 0.035;
};

struct FrameworkEstimate {
  TrainableCount count;
  double weight_bytes = 0;    // of the base
  double training_bytes = 0;  // of what is trained: gradients, Adam's moments, an adapter's values
  double allowance_bytes = 0;
  double total_bytes = 0;
  bool fits = false;  // in device_bytes
};

// Peak device memory of tuning with a framework that trains in float32 with Adam, from shapes
// alone: 16 bytes a trained parameter (value, gradient, two moments), frozen_parameter_bytes a
// frozen one, and the allowance. Throws as count_trainable().
FrameworkEstimate estimate_framework(const ModelShape& model, const FrameworkOptions& options);

// "47.14 GB" (of 10^9 bytes), "151.3 MB".
std::string format_bytes(double bytes);

}  // namespace quarry
