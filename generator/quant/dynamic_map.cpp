#include "generator/quant/dynamic_map.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace quarry {
namespace {

// torch.linspace(0.1, 1, count)[i] in float32: from the nearer end, with one rounding.
float boundary(int i, int count) {
  constexpr float kFirst = 0.1F;
  constexpr float kLast = 1.0F;
  const float step = (kLast - kFirst) / static_cast<float>(count - 1);
  return i < count / 2 ? std::fma(step, static_cast<float>(i), kFirst)
                       : std::fma(-step, static_cast<float>(count - 1 - i), kLast);
}

// Decade d of 7 holds the midpoints of linspace(0.1, 1, n + 1) times 10^(d - 6); n doubles with
// each decade. The signed map gives half of the codes to negative values. Rounded as
// create_dynamic_map of bitsandbytes does, so that files hold the same bits.
DynamicMap make_map(bool with_negatives) {
  std::vector<float> values = {0.0F, 1.0F};
  for (int decade = 0; decade < 7; ++decade) {
    const int intervals = 1 << (with_negatives ? decade : decade + 1);
    const auto scale = static_cast<float>(std::pow(10.0, decade - 6));
    for (int i = 0; i < intervals; ++i) {
      const float middle = (boundary(i, intervals + 1) + boundary(i + 1, intervals + 1)) / 2.0F;
      values.push_back(scale * middle);
      if (with_negatives) values.push_back(-scale * middle);
    }
  }
  std::sort(values.begin(), values.end());
  DynamicMap map;
  std::copy(values.begin(), values.end(), map.values.begin());
  for (size_t i = 0; i < map.midpoints.size(); ++i) {
    map.midpoints[i] = 0.5F * (map.values[i] + map.values[i + 1]);
  }
  return map;
}

}  // namespace

const DynamicMap& signed_dynamic_map() {
  static const DynamicMap map = make_map(true);
  return map;
}

const DynamicMap& unsigned_dynamic_map() {
  static const DynamicMap map = make_map(false);
  return map;
}

uint8_t nearest_code(const DynamicMap& map, float x) {
  // The number of midpoints below x, by halving, without branches.
  size_t code = 0;
  for (size_t step = 128; step > 0; step /= 2) {
    code += step * static_cast<size_t>(map.midpoints[code + step - 1] < x);
  }
  return static_cast<uint8_t>(code);
}

float quantize_dynamic_block(const DynamicMap& map, const float* values, int64_t size,
                             uint8_t* codes) {
  float maximum = 0;
  for (int64_t i = 0; i < size; ++i) maximum = std::max(maximum, std::fabs(values[i]));
  const float divisor = maximum > 0 ? maximum : 1;
  for (int64_t i = 0; i < size; ++i) codes[i] = nearest_code(map, values[i] / divisor);
  return maximum;
}

}  // namespace quarry
