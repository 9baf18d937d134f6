#include "generator/decode/step_cost.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"

namespace quarry {
namespace {

// A row more costs this share of a step with one row, until it has been measured: 0.12 (4 rows) to
// 0.24 (8 rows) for SmolLM2-135M with AVX-512.
constexpr double kRowShare = 0.15;
// A step during which another program had the cores tells nothing.
constexpr double kMostSurprise = 1.5;
constexpr double kLearningRate = 0.1;
// Other programs only ever make a step longer: what is longer than expected counts less.
constexpr double kLongerShare = 0.5;
// What was learned of other numbers of rows fades, so that they are tried again.
constexpr double kForgettingRate = 0.002;

double line(int64_t rows) { return 1.0 + kRowShare * static_cast<double>(rows - 1); }

}  // namespace

double StepCost::predict(int64_t rows) const {
  QUARRY_DCHECK(rows >= 1 && rows <= kMostRows);
  return one_row_seconds_ * line(rows) * factor_[static_cast<size_t>(rows - 1)];
}

void StepCost::observe(int64_t rows, double seconds) {
  if (!is_known_) {
    is_known_ = true;
    one_row_seconds_ = seconds / line(rows);
    return;
  }
  const double surprise = std::clamp(seconds / predict(rows), 1.0 / kMostSurprise, kMostSurprise);
  const double change =
      std::pow(surprise, surprise > 1.0 ? kLongerShare * kLearningRate : kLearningRate);
  for (double& factor : factor_) factor += kForgettingRate * (1.0 - factor);
  // A slower machine or a longer context slows all steps; only one row's step says nothing of the
  // others.
  one_row_seconds_ *= change;
  if (rows > 1) factor_[static_cast<size_t>(rows - 1)] *= change;
}

}  // namespace quarry
