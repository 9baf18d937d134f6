#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/attention_body.h"
#include "generator/kernels/vec_avx512.h"

// Attention over tiles of bfloat16 with products of pairs (vdpbf16ps), which it reads where they
// lie in the cache. In the scratch a row of q is [padded / 2] pairs and a row of probabilities
// [kKeyTile / 2] pairs.
namespace quarry::kernels::avx512 {
namespace {

constexpr int kVectors = 4;  // of a register tile

inline uint32_t* as_pairs(float* scratch) { return reinterpret_cast<uint32_t*>(scratch); }

inline __m512bh load_pairs(const uint32_t* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}
inline __m512bh broadcast_pair(const uint32_t* p) {
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(*p)));
}

// Rounds floats, a multiple of 16, to the beginning of their own memory.
inline void round_in_place(float* values, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(values + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(as_pairs(values) + i / 2),
                        reinterpret_cast<__m256i>(rounded));
  }
}

inline void fetch_lines(const uint32_t* pairs, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) _mm_prefetch(pairs + i, _MM_HINT_T1);
}

struct PairProducts {
  using V = VecAvx512;
  static constexpr int kMaxRows = 6;

  static void begin(const AttentionScratch& s, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) round_in_place(s.q + row * s.padded, s.padded);
  }

  // A pass over few rows waits for memory: it asks for the next tile while it works on this one.
  static void load_tile(AttentionScratch& s, const AttentionShape&, const KeyValueTiles& kv,
                        const TileKeys& keys, int64_t rows) {
    const KeyValueRows<uint32_t> pairs = pairs_at(kv, s, keys.kv_head, keys.tile);
    s.pairs_k = pairs.k;
    s.pairs_v = pairs.v;
    const bool has_next = rows <= kMaxRows && keys.tile + kKeyTile < keys.last_key;
    const KeyValueRows<uint32_t> next =
        has_next ? pairs_at(kv, s, keys.kv_head, keys.tile + kKeyTile) : pairs;
    s.next_k = has_next ? next.k : nullptr;
    s.next_v = has_next ? next.v : nullptr;
  }

  template <int kRows>
  static void score(const AttentionScratch& s, int64_t row, int64_t) {
    __m512 total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kVectors; ++i) total[r][i] = _mm512_setzero_ps();
    }
    for (int64_t pair = 0; pair < s.padded / 2; ++pair) {
      if (s.next_k != nullptr) fetch_lines(s.next_k + pair * kKeyTile, kKeyTile);
      __m512bh columns[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        columns[i] = load_pairs(s.pairs_k + pair * kKeyTile + 16 * i);
      }
      for (int r = 0; r < kRows; ++r) {
        const __m512bh value = broadcast_pair(as_pairs(s.q + (row + r) * s.padded) + pair);
        for (int i = 0; i < kVectors; ++i) {
          total[r][i] = _mm512_dpbf16_ps(total[r][i], columns[i], value);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kVectors; ++i) {
        _mm512_storeu_ps(s.scores + r * kKeyTile + 16 * i, total[r][i]);
      }
    }
  }

  template <int kRows>
  static void accumulate(const AttentionScratch& s, int64_t row, Visible keys) {
    for (int r = 0; r < kRows; ++r) round_in_place(s.scores + r * kKeyTile, kKeyTile);
    int64_t d = 0;
    for (; d + kVectors * 16 <= s.padded; d += kVectors * 16) {
      accumulate_columns<kRows, kVectors>(s, row, d, keys);
    }
    for (; d + 32 <= s.padded; d += 32) accumulate_columns<kRows, 2>(s, row, d, keys);
    for (; d < s.padded; d += 16) accumulate_columns<kRows, 1>(s, row, d, keys);
  }

 private:
  // Past the visible keys, to which a pair may reach, probabilities are 0.
  template <int kRows, int kColumns>
  static void accumulate_columns(const AttentionScratch& s, int64_t row, int64_t d, Visible keys) {
    __m512 total[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kColumns; ++i) {
        total[r][i] = _mm512_loadu_ps(s.out + (row + r) * s.padded + d + 16 * i);
      }
    }
    const bool fetches = s.next_v != nullptr && d == 0;
    for (int64_t pair = keys.begin / 2; pair < (keys.end + 1) / 2; ++pair) {
      if (fetches) fetch_lines(s.next_v + pair * s.padded, s.padded);
      __m512bh columns[kColumns];
      for (int i = 0; i < kColumns; ++i) {
        columns[i] = load_pairs(s.pairs_v + pair * s.padded + d + 16 * i);
      }
      for (int r = 0; r < kRows; ++r) {
        const __m512bh p = broadcast_pair(as_pairs(s.scores + r * kKeyTile) + pair);
        for (int i = 0; i < kColumns; ++i) {
          total[r][i] = _mm512_dpbf16_ps(total[r][i], columns[i], p);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kColumns; ++i) {
        _mm512_storeu_ps(s.out + (row + r) * s.padded + d + 16 * i, total[r][i]);
      }
    }
  }
};

}  // namespace

void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValueTiles& kv, float* out, float* scratch) {
  attention_task_body<PairProducts>(shape, task, q, kv, out, scratch);
}

}  // namespace quarry::kernels::avx512
