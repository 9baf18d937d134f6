#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace quarry {

// log(sum(exp(x))), without overflow; -infinity for no value and for values that all are.
inline double log_sum_exp(const std::vector<double>& x) {
  constexpr double kLowest = -std::numeric_limits<double>::infinity();
  double largest = kLowest;
  for (const double value : x) largest = std::max(largest, value);
  if (largest == kLowest) return kLowest;
  double sum = 0.0;
  for (const double value : x) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

// log of softmax(x / temperature). REQUIRES: temperature > 0.
inline std::vector<double> log_softmax(std::vector<double> x, double temperature = 1.0) {
  for (double& value : x) value /= temperature;
  const double total = log_sum_exp(x);
  for (double& value : x) value -= total;
  return x;
}

}  // namespace quarry
