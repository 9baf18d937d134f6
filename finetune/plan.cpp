#include "finetune/plan.h"

#include "data/core/error.h"
#include "data/core/progress.h"

namespace quarry {

std::string to_text(const FinetunePlan& plan) {
  std::string text = format_trainable(plan.count);
  for (const std::string& notice : plan.notices) text += "\nnote             " + notice;
  text += concat("\nbase model       ", plan.base_model, "\ntraining rows    ", plan.rows,
                 "\noptimizer steps  about ", plan.steps, "\nexpected time    ",
                 format_duration(plan.expected_seconds()), " (the first step took ",
                 format_duration(plan.step_seconds), ": ", plan.first_step.sequences,
                 " sequences, ", plan.first_step.tokens, " tokens in ", plan.first_step.rows,
                 " rows)\n\nMemory at the peak, estimated for passes of ", plan.pass_rows,
                 " rows\n", to_text(plan.memory), "\nThe first batch\n", to_text(plan.first_batch));
  for (const std::string& example : plan.examples) text += "\n" + example + "\n";
  return text;
}

}  // namespace quarry
