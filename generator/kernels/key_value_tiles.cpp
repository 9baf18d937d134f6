#include "generator/kernels/key_value_tiles.h"

#include <algorithm>
#include <cstring>

#include "data/core/error.h"
#include "generator/kernels/elementwise_backward.h"

namespace quarry::kernels {
namespace {

using Bits = uint16_t;

// A pair whose odd element is 0, and that element put in. Little-endian, whole words, so that the
// compiler makes vectors of it.
inline void store_pair(Bits even, Bits* pair) {
  const uint32_t word = even;
  std::memcpy(pair, &word, sizeof(word));
}
inline void add_odd(Bits odd, Bits* pair) {
  uint32_t word;
  std::memcpy(&word, pair, sizeof(word));
  word = (word & 0xffffu) | uint32_t{odd} << 16;
  std::memcpy(pair, &word, sizeof(word));
}

// Calls place(head, bits) with each head's row as bfloat16, zeros behind it.
template <typename Place>
void for_each_head(const float* row, int64_t num_heads, int64_t head_dim, const Place& place) {
  constexpr int64_t kChunk = 1024;
  uint16_t bits[kChunk];
  uint16_t padded[kChunk];
  QUARRY_DCHECK(head_dim <= 256);
  const int64_t heads_at_once = kChunk / head_dim;
  const int64_t zeros = padded_head_dim(head_dim) - head_dim;
  for (int64_t first = 0; first < num_heads; first += heads_at_once) {
    const int64_t count = std::min(heads_at_once, num_heads - first);
    float_to_bfloat16(row + first * head_dim, count * head_dim, bits);
    for (int64_t head = 0; head < count; ++head) {
      const uint16_t* source = bits + head * head_dim;
      if (zeros == 0) {
        place(first + head, source);
        continue;
      }
      std::copy(source, source + head_dim, padded);
      std::fill(padded + head_dim, padded + head_dim + zeros, uint16_t{0});
      place(first + head, padded);
    }
  }
}

}  // namespace

void store_keys(const float* rows, int64_t stride, int64_t count, int64_t num_kv_heads,
                int64_t head_dim, int64_t first_key, uint16_t* tile) {
  QUARRY_DCHECK(first_key >= 0 && first_key + count <= kTileKeys);
  const int64_t padded = padded_head_dim(head_dim);
  for (int64_t i = 0; i < count; ++i) {
    for_each_head(rows + i * stride, num_kv_heads, head_dim, [&](int64_t head, const Bits* bits) {
      Bits* target = tile + head * kTileKeys * padded + 2 * (first_key + i);
      for (int64_t d = 0; d < padded; d += 2) std::memcpy(target + d * kTileKeys, bits + d, 4);
    });
  }
}

void store_values(const float* rows, int64_t stride, int64_t count, int64_t num_kv_heads,
                  int64_t head_dim, int64_t first_key, uint16_t* tile) {
  QUARRY_DCHECK(first_key >= 0 && first_key + count <= kTileKeys);
  const int64_t padded = padded_head_dim(head_dim);
  const auto pairs_of = [&](int64_t head, int64_t key) {
    return tile + (head * kTileKeys + key / 2 * 2) * padded;
  };
  for (int64_t i = 0; i < count; ++i) {
    const int64_t key = first_key + i;
    for_each_head(rows + i * stride, num_kv_heads, head_dim, [&](int64_t head, const Bits* bits) {
      Bits* target = pairs_of(head, key);
      if (key % 2 == 0) {
        for (int64_t d = 0; d < padded; ++d) store_pair(bits[d], target + 2 * d);
      } else {
        for (int64_t d = 0; d < padded; ++d) add_odd(bits[d], target + 2 * d);
      }
    });
  }
}

}  // namespace quarry::kernels
