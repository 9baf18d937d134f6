#pragma once

#include <stdint.h>

#include "generator/kernels/attention.h"
#include "generator/kernels/key_value_tiles.h"

// The versions that attention.cpp chooses from.
namespace quarry::kernels {

// Keys per tile. Tiles start at key 0 whatever the queries are, so that a query's rounding does
// not depend on which other queries share the call.
constexpr int64_t kKeyTile = kTileKeys;

// A softmax over some of the keys: exp(score - maximum) summed, alone and times the values.
struct SoftmaxRows {
  float* out;      // [rows][padded]
  float* maximum;  // [rows]
  float* sum;      // [rows]
};

// Puts that over further keys to what the rows have (Dao et al. 2023, sec. 2.3). One over no key
// has maximum -infinity and changes nothing.
void fold_rows(const SoftmaxRows& more, int64_t rows, int64_t padded, const SoftmaxRows& total);

// Keys are taken in segments whose softmaxes are folded in order, so that threads may share the
// keys of one query and still round alike.
constexpr int64_t kSegmentKeys = 512;

// Queries [query_begin, query_end) of the heads [head_begin, head_end), all of one kv head: their
// (query, head) pairs are the rows of one small matrix product (Ainslie et al. 2023, sec. 2.2).
struct AttentionTask {
  int64_t kv_head;
  int64_t head_begin;
  int64_t head_end;
  int64_t query_begin;
  int64_t query_end;
  // With `part`, the keys of this segment only, whose softmax goes there instead of to out.
  int64_t segment;
  const SoftmaxRows* part;
};

// Floats of scratch for a task of `rows` rows: q, the softmax of a segment and of all before it;
// the tile of K transposed, the tile of V, and the scores of a few rows.
inline int64_t attention_scratch_floats(int64_t rows, int64_t head_dim) {
  const int64_t padded = padded_head_dim(head_dim);
  return rows * (3 * padded + 4) + 2 * padded * kKeyTile + 8 * kKeyTile + 64;
}

#define QUARRY_DECLARE_ATTENTION                                                              \
  void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q, \
                      const KeyValuePages<float>& kv, float* out, float* scratch);            \
  void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q, \
                      const KeyValuePages<uint16_t>& kv, float* out, float* scratch);         \
  void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q, \
                      const KeyValueTiles& kv, float* out, float* scratch);

namespace portable {
QUARRY_DECLARE_ATTENTION
}
namespace avx2 {
QUARRY_DECLARE_ATTENTION
}
namespace avx512 {
QUARRY_DECLARE_ATTENTION
}
#undef QUARRY_DECLARE_ATTENTION

}  // namespace quarry::kernels
