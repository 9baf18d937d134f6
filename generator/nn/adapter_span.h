#pragma once

#include <cstdint>

#include "generator/nn/lora.h"
#include "generator/nn/lora_training.h"

namespace quarry::nn {

// Rows [begin, end) of a step that run with `adapter`. Spans of a step are disjoint and ascend.
struct AdapterSpan {
  int64_t begin = 0;
  int64_t end = 0;
  const LoraAdapter* adapter = nullptr;  // borrowed, never null
  LoraGradients* gradients = nullptr;    // borrowed; where the backward pass adds the adapter's

  int64_t num_rows() const { return end - begin; }
  bool trains() const { return gradients != nullptr; }
};

}  // namespace quarry::nn
