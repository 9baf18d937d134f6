#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace quarry::test {

// Normal values that are the same on every platform for one seed (std::normal_distribution is not).
class RandomValues {
 public:
  explicit RandomValues(uint64_t seed) : engine_(seed) {}

  // In (0, 1).
  double uniform() { return (static_cast<double>(engine_() >> 11) + 0.5) * 0x1p-53; }

  std::vector<float> normal(int64_t count, double mean, double deviation) {
    constexpr double kTwoPi = 6.283185307179586;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
      const double radius = std::sqrt(-2.0 * std::log(uniform()));
      value = static_cast<float>(mean + deviation * radius * std::cos(kTwoPi * uniform()));
    }
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace quarry::test
