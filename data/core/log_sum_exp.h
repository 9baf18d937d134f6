#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace quarry {

// log(sum(exp(x))) of `count` floats or doubles, in double precision, without overflow; -infinity
// for no value and for values that all are.
template <typename T>
double log_sum_exp(const T* x, size_t count) {
  constexpr double kLowest = -std::numeric_limits<double>::infinity();
  double largest = kLowest;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, double{x[i]});
  if (largest == kLowest) return kLowest;
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i) sum += std::exp(x[i] - largest);
  return largest + std::log(sum);
}
inline double log_sum_exp(const std::vector<double>& x) { return log_sum_exp(x.data(), x.size()); }

// log of softmax(x / temperature). REQUIRES: temperature > 0.
inline std::vector<double> log_softmax(std::vector<double> x, double temperature = 1.0) {
  for (double& value : x) value /= temperature;
  const double total = log_sum_exp(x);
  for (double& value : x) value -= total;
  return x;
}

}  // namespace quarry
