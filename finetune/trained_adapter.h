#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "finetune/optimizer.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_training.h"

namespace quarry {

// An adapter that is trained, with its gradients, as the optimizer sees it. One thread.
class TrainedAdapter {
 public:
  // Both are borrowed. `config` says under which names PEFT stores what the adapter has; `prefix`
  // goes before them, where an optimizer has several adapters.
  TrainedAdapter(const LoraConfig& config, LoraAdapter& adapter, std::string prefix = "");

  const LoraAdapter& adapter() const { return adapter_; }
  LoraGradients& gradients() { return gradients_; }
  // What is trained, in a fixed order. Weight decay is for matrices, not for norms and biases, as
  // in transformers' Trainer.
  std::vector<ParameterView> parameters();
  std::vector<GradientView> gradient_views();
  // After the values of parameters() were changed: what the kernels read follows them.
  void pack();

  void set_learning_rate_scale(double scale) { learning_rate_scale_ = scale; }

 private:
  const LoraConfig& config_;
  LoraAdapter& adapter_;
  std::string prefix_;
  double learning_rate_scale_ = 1.0;
  LoraGradients gradients_;
};

// Of all values, bit by bit: whether a step moved anything.
uint64_t hash_of_values(const std::vector<ParameterView>& parameters);

}  // namespace quarry
