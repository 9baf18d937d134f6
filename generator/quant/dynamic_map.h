#pragma once

#include <array>
#include <cstdint>

namespace quarry {

// An 8-bit dynamic map of bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861): 256 ascending
// values whose steps grow with their size, seven decades in all. Bit for bit those of bitsandbytes.
struct DynamicMap {
  std::array<float, 256> values;
  std::array<float, 255> midpoints;  // midpoints[i] between values i and i + 1
};

// -0.992969 .. 1, with 0; for first moments.
const DynamicMap& signed_dynamic_map();
// 0 .. 1; for second moments.
const DynamicMap& unsigned_dynamic_map();

// Elements that share one maximum.
constexpr int64_t kDynamicMapBlock = 256;

// Index of the value nearest to x; a tie goes to the lower one. Outside the map: its ends.
uint8_t nearest_code(const DynamicMap& map, float x);

// Codes of values[i] / m, where m is the largest |values[i]|. Returns m. When m is 0, every code is
// that of 0. REQUIRES: finite values.
float quantize_dynamic_block(const DynamicMap& map, const float* values, int64_t size,
                             uint8_t* codes);

}  // namespace quarry
