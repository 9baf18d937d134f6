#pragma once

#include <array>
#include <cstdint>

namespace quarry {

// How long a step of the model takes for so many rows, learned from the steps that ran. One thread.
class StepCost {
 public:
  static constexpr int64_t kMostRows = 32;

  StepCost() { factor_.fill(1.0); }

  // Seconds, up to a factor that is the same for all `rows`, until one step has been observed.
  // REQUIRES: 1 <= rows <= kMostRows.
  double predict(int64_t rows) const;
  void observe(int64_t rows, double seconds);

 private:
  double one_row_seconds_ = 1.0;
  bool is_known_ = false;
  // Of the time for so many rows, against a straight line.
  std::array<double, kMostRows> factor_;
};

}  // namespace quarry
