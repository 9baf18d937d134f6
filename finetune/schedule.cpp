#include "finetune/schedule.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"

namespace quarry {
namespace {

constexpr double kPi = 3.14159265358979323846;

}  // namespace

double LearningRateSchedule::at(int64_t step) const {
  QUARRY_CHECK(step >= 0 && num_steps >= 1 && warmup_steps >= 0 && warmup_steps <= num_steps,
               ErrorCode::kInvalidArgument, "learning rate schedule: step ", step, " of ",
               num_steps, " with ", warmup_steps,
               " warm-up steps, wanted a step from 0 and no more warm-up steps than steps");
  if (step < warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps + 1);
  }
  if (decay == Decay::kConstant) return peak;
  if (step >= num_steps) return 0;
  const double progress =
      static_cast<double>(step - warmup_steps) / static_cast<double>(num_steps - warmup_steps);
  return decay == Decay::kLinear ? peak * (1 - progress)
                                 : peak * 0.5 * (1 + std::cos(kPi * progress));
}

int64_t warmup_steps(int64_t steps, double ratio, int64_t num_steps) {
  QUARRY_CHECK(ratio >= 0 && ratio <= 1, ErrorCode::kInvalidArgument, "warmup_ratio is ", ratio,
               ", wanted 0 to 1");
  const int64_t wanted =
      steps >= 0 ? steps : static_cast<int64_t>(std::ceil(ratio * static_cast<double>(num_steps)));
  return std::clamp<int64_t>(wanted, 0, std::max<int64_t>(num_steps - 1, 0));
}

}  // namespace quarry
