#include "data/metrics/bootstrap.h"

#include <algorithm>
#include <numeric>

#include "data/core/error.h"

namespace quarry {
namespace {

// splitmix64 (Steele, Lea and Flood 2014): the standard library's distributions may differ from one
// implementation to the next, and an interval must not.
class RandomIndex {
 public:
  explicit RandomIndex(uint64_t seed) : state_(seed) {}
  // Uniform in [0, n), n < 2^32, by the high half of a 64-bit product.
  size_t below(size_t n) {
    state_ += 0x9E3779B97F4A7C15ULL;
    uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    z ^= z >> 31U;
    return static_cast<size_t>(((z >> 32U) * static_cast<uint64_t>(n)) >> 32U);
  }

 private:
  uint64_t state_;
};

// Linear interpolation between order statistics, as numpy.percentile.
double quantile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Estimate bootstrap_mean(const std::vector<double>& values, const BootstrapOptions& options) {
  QUARRY_CHECK(options.resamples >= 1, ErrorCode::kInvalidArgument,
               "bootstrap: ", options.resamples, " resamples, wanted at least 1");
  Estimate estimate;
  if (values.empty()) return estimate;
  const auto n = static_cast<double>(values.size());
  estimate.count = static_cast<int64_t>(values.size());
  estimate.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  RandomIndex random(options.seed);
  std::vector<double> means(static_cast<size_t>(options.resamples));
  for (double& mean : means) {
    double sum = 0.0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[random.below(values.size())];
    mean = sum / n;
  }
  std::sort(means.begin(), means.end());
  estimate.low = quantile(means, 0.025);
  estimate.high = quantile(means, 0.975);
  return estimate;
}

}  // namespace quarry
