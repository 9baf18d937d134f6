#pragma once

#include <cstdint>
#include <vector>

namespace quarry {

// A mean and the interval that holds 95 % of the means of resamples.
struct Estimate {
  double mean = 0.0;
  double low = 0.0;
  double high = 0.0;
  int64_t count = 0;  // values averaged
};

struct BootstrapOptions {
  int64_t resamples = 1000;  // fewer: a rougher interval
  uint64_t seed = 1;         // the same seed and values give the same interval everywhere
};

// Percentile bootstrap of the mean (Efron 1979): resamples values with replacement. All zeros for
// no values. Pure function.
Estimate bootstrap_mean(const std::vector<double>& values,
                        const BootstrapOptions& options = BootstrapOptions());

}  // namespace quarry
