// Built with -ffp-contract=off.
#include "generator/quant/pytorch_sum.h"

#include <algorithm>
#include <array>

namespace quarry {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kRows = 4;
constexpr int64_t kLevels = 4;

using Sums = std::array<float, kRows * kLanes>;

void add(const float* x, Sums& sums) {
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += x[i];
}

int64_t ceil_log2(int64_t x) {
  int64_t power = 0;
  while ((int64_t{1} << power) < x) ++power;
  return power;
}

// Sums of `count` groups of kRows * kLanes values each.
Sums cascade(const float* x, int64_t count) {
  const int64_t level_power = std::max<int64_t>(4, ceil_log2(count) / kLevels);
  const int64_t level_step = int64_t{1} << level_power;
  std::array<Sums, kLevels> levels = {};
  int64_t i = 0;
  while (i + level_step <= count) {
    for (int64_t j = 0; j < level_step; ++j, ++i) {
      add(x + i * kRows * kLanes, levels[0]);
    }
    for (int64_t level = 1; level < kLevels; ++level) {
      const auto below = static_cast<size_t>(level - 1);
      add(levels[below].data(), levels[below + 1]);
      levels[below].fill(0.0f);
      if ((i & ((level_step - 1) << (level * level_power))) != 0) break;
    }
  }
  for (; i < count; ++i) add(x + i * kRows * kLanes, levels[0]);
  for (size_t level = 1; level < levels.size(); ++level) add(levels[level].data(), levels[0]);
  return levels[0];
}

}  // namespace

float sum_as_pytorch(const float* x, int64_t count) {
  const int64_t vectors = count / kLanes;
  const int64_t groups = vectors / kRows;
  Sums sums = cascade(x, groups);
  for (int64_t v = groups * kRows; v < vectors; ++v) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[static_cast<size_t>(lane)] += x[v * kLanes + lane];
    }
  }
  for (int64_t row = 1; row < kRows; ++row) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[static_cast<size_t>(lane)] += sums[static_cast<size_t>(row * kLanes + lane)];
    }
  }
  float total = 0.0f;
  for (int64_t i = vectors * kLanes; i < count; ++i) total += x[i];
  for (int64_t lane = 0; lane < kLanes; ++lane) total += sums[static_cast<size_t>(lane)];
  return total;
}

}  // namespace quarry
