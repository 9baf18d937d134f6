#pragma once

#include <cstdint>

namespace quarry {

enum class Decay { kConstant, kLinear, kCosine };

// Learning rate by step: a linear warm-up, then a decay towards zero.
struct LearningRateSchedule {
  Decay decay = Decay::kCosine;
  double peak = 5e-4;
  int64_t num_steps = 1;     // optimizer steps of the whole run
  int64_t warmup_steps = 0;  // steps below the peak; see warmup_steps()

  // Rate of step 0, 1 ... (the step about to be taken):
  //   step < warmup_steps   peak * (step + 1) / (warmup_steps + 1)
  //   then                  peak * {1, 1 - p, (1 + cos(pi p)) / 2},
  //                         p = (step - warmup_steps) / (num_steps - warmup_steps)
  // No step of the run has a rate of zero, and step `warmup_steps` has the peak. From num_steps on:
  // p = 1. Throws kInvalidArgument for a negative step, num_steps < 1 or warmup_steps outside
  // 0 .. num_steps.
  double at(int64_t step) const;
};

// Warm-up steps for a run: `steps` when >= 0, else ceil(ratio * num_steps); never all of them.
// Throws kInvalidArgument for a ratio outside 0 .. 1.
int64_t warmup_steps(int64_t steps, double ratio, int64_t num_steps);

}  // namespace quarry
