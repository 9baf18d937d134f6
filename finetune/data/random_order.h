#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "generator/decode/random.h"

// Random choices that are the same on every platform and standard library.
namespace quarry {

// A stream of its own for each triple.
inline SplitMix64 stream_of(uint64_t seed, uint64_t epoch, uint64_t item) {
  const uint64_t mixed = SplitMix64(SplitMix64(seed).next() ^ epoch).next();
  return SplitMix64(mixed ^ (item * 0xD1342543DE82EF95ULL));
}

// Uniform in [0, n). REQUIRES: n > 0, far below 2^53.
inline int64_t below(SplitMix64& random, int64_t n) {
  return static_cast<int64_t>(random.next_unit() * static_cast<double>(n));
}

// Fisher and Yates.
template <typename Value>
void shuffle(std::vector<Value>& values, SplitMix64& random) {
  for (size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[static_cast<size_t>(below(random, static_cast<int64_t>(i)))]);
  }
}

}  // namespace quarry
