#pragma once

#include <string>
#include <vector>

#include "finetune/data/summary.h"
#include "finetune/estimate.h"
#include "finetune/trainer.h"

namespace quarry {

// What a dry run finds out.
struct FinetunePlan {
  TrainableCount count;
  std::vector<std::string> notices;
  std::string base_model;
  int64_t rows = 0;
  int64_t steps = 0;          // about
  StepResult first_step;      // taken, and thrown away
  double step_seconds = 0.0;  // of it
  int64_t pass_rows = 0;      // of the largest pass that the first batches have
  MemoryEstimate memory;      // for such a pass
  DataSummary first_batch;
  std::vector<std::string> examples;  // the first sequences as text with their targets marked

  double expected_seconds() const { return step_seconds * static_cast<double>(steps); }
};

// For people.
std::string to_text(const FinetunePlan& plan);

}  // namespace quarry
