#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/attention_body.h"
#include "generator/kernels/vec_avx512.h"

// Attention over bfloat16 keys and values with products of pairs of bfloat16 (vdpbf16ps). In the
// scratch a row of q is [padded / 2] pairs, the tile of K [padded / 2][kKeyTile] pairs of
// neighbouring dimensions, that of V [kKeyTile / 2][padded] pairs of neighbouring keys, and a row
// of probabilities [kKeyTile / 2] pairs.
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

// Elements d .. d + 31 of a row of head_dim, zeros behind it.
inline __m512i load_row(const BFloat16* row, int64_t d, int64_t head_dim) {
  const int64_t left = head_dim - d;
  const __mmask32 mask = left >= 32 ? 0xffffffffu : (uint32_t{1} << left) - 1;
  return _mm512_maskz_loadu_epi16(mask, row + d);
}

void load_keys(const AttentionScratch& s, const BFloat16* k, int64_t ldk, int64_t count,
               int64_t head_dim) {
  for (int64_t key = 0; key < kKeyTile; key += 16) {
    for (int64_t d = 0; d < head_dim; d += 32) {
      VecAvx512 rows[16];
      for (int i = 0; i < 16; ++i) {
        const bool exists = key + i < count;
        rows[i].v = exists ? _mm512_castsi512_ps(load_row(k + (key + i) * ldk, d, head_dim))
                           : _mm512_setzero_ps();
      }
      transpose_block(rows, s.k + d / 2 * kKeyTile + key, kKeyTile);
    }
  }
}

void load_values(const AttentionScratch& s, const BFloat16* v, int64_t ldk, int64_t count,
                 int64_t head_dim) {
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 32; ++i) {
    const int from = i / 2 + i % 2 * 32;
    order[0][i] = static_cast<uint16_t>(from);
    order[1][i] = static_cast<uint16_t>(from + 16);
  }
  const __m512i first = _mm512_load_si512(order[0]);
  const __m512i second = _mm512_load_si512(order[1]);
  for (int64_t key = 0; key < count; key += 2) {
    uint32_t* pairs = as_pairs(s.v) + key / 2 * s.padded;
    for (int64_t d = 0; d < head_dim; d += 32) {
      const __m512i even = load_row(v + key * ldk, d, head_dim);
      const __m512i odd =
          key + 1 < count ? load_row(v + (key + 1) * ldk, d, head_dim) : _mm512_setzero_si512();
      _mm512_storeu_si512(pairs + d, _mm512_permutex2var_epi16(even, first, odd));
      if (d + 16 >= s.padded) continue;
      _mm512_storeu_si512(pairs + d + 16, _mm512_permutex2var_epi16(even, second, odd));
    }
  }
}

struct PairProducts {
  using V = VecAvx512;
  static constexpr int kMaxRows = 6;

  static void begin(const AttentionScratch& s, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) round_in_place(s.q + row * s.padded, s.padded);
  }

  static void load_tile(const AttentionScratch& s, const BFloat16* k, const BFloat16* v,
                        int64_t ldk, int64_t count, int64_t head_dim) {
    load_keys(s, k, ldk, count, head_dim);
    load_values(s, v, ldk, count, head_dim);
  }

  template <int kRows>
  static void score(const AttentionScratch& s, int64_t row, int64_t) {
    const uint32_t* keys = as_pairs(s.k);
    __m512 total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kVectors; ++i) total[r][i] = _mm512_setzero_ps();
    }
    for (int64_t pair = 0; pair < s.padded / 2; ++pair) {
      __m512bh columns[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        columns[i] = load_pairs(keys + pair * kKeyTile + 16 * i);
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
    for (; d < s.padded; d += 16) accumulate_columns<kRows, 1>(s, row, d, keys);
  }

 private:
  // Past the visible keys, to which a pair may reach, probabilities are 0.
  template <int kRows, int kColumns>
  static void accumulate_columns(const AttentionScratch& s, int64_t row, int64_t d, Visible keys) {
    const uint32_t* values = as_pairs(s.v);
    __m512 total[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kColumns; ++i) {
        total[r][i] = _mm512_loadu_ps(s.out + (row + r) * s.padded + d + 16 * i);
      }
    }
    for (int64_t pair = keys.begin / 2; pair < (keys.end + 1) / 2; ++pair) {
      __m512bh columns[kColumns];
      for (int i = 0; i < kColumns; ++i) {
        columns[i] = load_pairs(values + pair * s.padded + d + 16 * i);
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
                    const KeyValuePages<BFloat16>& kv, float* out, float* scratch) {
  attention_task_body<PairProducts>(shape, task, q, kv, out, scratch);
}

}  // namespace quarry::kernels::avx512
