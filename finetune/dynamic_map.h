#pragma once

#include <array>
#include <cstdint>

namespace quarry {

// The 8-bit dynamic maps of bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861): 256 ascending
// values whose steps grow with their size, seven decades in all.
//   signed    -0.992969 .. 1, with 0; for first moments
//   unsigned   0 .. 1; for second moments
using DynamicMap = std::array<float, 256>;

const DynamicMap& signed_dynamic_map();
const DynamicMap& unsigned_dynamic_map();

// Elements that share one maximum.
constexpr int64_t kDynamicMapBlock = 256;

// Index of the value nearest to x; a tie goes to the lower one. Values outside the map take its
// ends; NaN takes 255.
uint8_t nearest_code(const DynamicMap& map, float x);

// Codes of values[i] / m, where m is the largest |values[i]|. Returns m; m = 0 gives codes of 0.
float quantize_dynamic_block(const DynamicMap& map, const float* values, int64_t size,
                             uint8_t* codes);

}  // namespace quarry
