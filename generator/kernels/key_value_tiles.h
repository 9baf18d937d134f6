#pragma once

#include <cstdint>

namespace quarry::kernels {

// Keys and values of 64 tokens as bfloat16, for products of pairs (vdpbf16ps). One kv head's part
// of
//   a tile of keys    is [P / 2][64] pairs: the elements 2 i and 2 i + 1 of a key,
//   a tile of values  is [32][P] pairs: an element of the keys 2 i and 2 i + 1,
// with P = head_dim rounded up to 16 and zeros past head_dim. Tiles begin at a multiple of 4 bytes.
constexpr int64_t kTileKeys = 64;
constexpr int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Writes the rows of `count` tokens, [num_kv_heads * head_dim] float32 each and `stride` floats
// apart, rounded to nearest even, as keys or values first_key.. of a tile of num_kv_heads * 64 * P
// elements. Values are written in order: one that ends with an even key puts 0 in the place of the
// next.
void store_keys(const float* rows, int64_t stride, int64_t count, int64_t num_kv_heads,
                int64_t head_dim, int64_t first_key, uint16_t* tile);
void store_values(const float* rows, int64_t stride, int64_t count, int64_t num_kv_heads,
                  int64_t head_dim, int64_t first_key, uint16_t* tile);

}  // namespace quarry::kernels
