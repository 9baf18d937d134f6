#pragma once

#include <cstdint>
#include <vector>

#include "generator/kernels/attention.h"
#include "generator/nn/embedding.h"

namespace quarry::nn {

// How T5 sorts distances between key and query into buckets (Raffel et al. 2020, arXiv:1910.10683,
// section 2.1): one each for near keys, ever wider ones up to max_distance, one for all beyond.
struct RelativeBuckets {
  int64_t num_buckets = 32;
  int64_t max_distance = 128;
  bool bidirectional = true;  // half of them for keys that come after the query; else those share 0
};

// In [0, num_buckets); distance = key - query.
int64_t relative_bucket(const RelativeBuckets& buckets, int64_t distance);

// The biases of a table [num_buckets, H], spread over all distances.
class RelativeBiasTable {
 public:
  RelativeBiasTable(const RelativeBuckets& buckets, const Embedding& table);
  // Borrows this object.
  kernels::RelativeBias view() const { return {values_.data(), reach_}; }

 private:
  int64_t reach_;
  std::vector<float> values_;  // [H, 2 reach + 1]
};

}  // namespace quarry::nn
