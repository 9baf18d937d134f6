#include "generator/nn/relative_bias.h"

#include <algorithm>
#include <cmath>

namespace quarry::nn {

int64_t relative_bucket(const RelativeBuckets& buckets, int64_t distance) {
  int64_t count = buckets.num_buckets;
  int64_t first = 0;
  int64_t places = std::max<int64_t>(0, -distance);
  if (buckets.bidirectional) {
    count /= 2;
    if (distance > 0) first = count;
    places = std::abs(distance);
  }
  const int64_t exact = count / 2;
  if (places < exact) return first + places;
  // In float32, as transformers computes it: where a bucket ends depends on the rounding.
  const float wide = std::log(static_cast<float>(places) / static_cast<float>(exact)) /
                     static_cast<float>(std::log(static_cast<double>(buckets.max_distance) /
                                                 static_cast<double>(exact))) *
                     static_cast<float>(count - exact);
  return first + std::min(count - 1, exact + static_cast<int64_t>(wide));
}

RelativeBiasTable::RelativeBiasTable(const RelativeBuckets& buckets, const Embedding& table)
    : reach_(buckets.max_distance) {
  const int64_t width = 2 * reach_ + 1;
  values_.resize(static_cast<size_t>(table.width() * width));
  std::vector<float> row(static_cast<size_t>(table.width()));
  for (int64_t i = 0; i < width; ++i) {
    table.decode(relative_bucket(buckets, i - reach_), row.data());
    for (int64_t head = 0; head < table.width(); ++head) {
      values_[static_cast<size_t>(head * width + i)] = row[static_cast<size_t>(head)];
    }
  }
}

}  // namespace quarry::nn
