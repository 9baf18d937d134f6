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

// 2^x, relative error below 3e-6, which is lost when it is rounded to bfloat16; exactly 1 for 0 and
// exactly 0 for -inf.
inline __m512 power_of_two(__m512 x) {
  // The operand order keeps a NaN.
  const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  const __m512 n = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(clamped, n);
  __m512 p = _mm512_set1_ps(0.009582852944731712f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.055906426161527634f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24024099111557007f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6931241750717163f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// Lane r of the result: the lanes of vectors[r] combined, the same way for each r.
template <typename Combine>
inline __m512 reduce_eight(const __m512* vectors, const Combine& combine) {
  __m512 four[2];
  for (int i = 0; i < 2; ++i) {
    const __m512* v = vectors + 4 * i;
    const __m512 ab = combine(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 cd = combine(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    four[i] = combine(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  }
  const __m512 halves = combine(_mm512_shuffle_f32x4(four[0], four[1], 0x44),
                                _mm512_shuffle_f32x4(four[0], four[1], 0xee));
  const __m512 all = combine(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));
  return _mm512_shuffle_f32x4(all, all, 0x08);
}

// The keys of a tile that a row sees, a bit each.
inline uint64_t bits_of(Visible keys) {
  const uint64_t below_end = keys.end >= 64 ? ~uint64_t{0} : (uint64_t{1} << keys.end) - 1;
  return keys.begin >= keys.end ? 0 : below_end >> keys.begin << keys.begin;
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

  // As softmax_row, what the rows have in common done once; leaves pairs of bfloat16.
  template <int kRows>
  static void softmax(const AttentionScratch& s, int64_t row, const Visible* seen) {
    static_assert(kRows <= 8 && kKeyTile == 16 * kVectors, "what reduce_eight takes");
    const __m512 minus_infinity = _mm512_set1_ps(-__builtin_inff());
    const auto larger = [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); };
    __m512 reduced[8];
    for (int r = kRows; r < 8; ++r) reduced[r] = _mm512_setzero_ps();
    for (int r = 0; r < kRows; ++r) {
      float* scores = s.scores + r * kKeyTile;
      if (seen[r].begin > 0 || seen[r].end < kKeyTile) {
        const uint64_t bits = bits_of(seen[r]);
        for (int i = 0; i < kVectors; ++i) {
          const auto hidden = static_cast<__mmask16>(~bits >> (16 * i));
          _mm512_mask_storeu_ps(scores + 16 * i, hidden, minus_infinity);
        }
      }
      reduced[r] = larger(larger(_mm512_loadu_ps(scores), _mm512_loadu_ps(scores + 16)),
                          larger(_mm512_loadu_ps(scores + 32), _mm512_loadu_ps(scores + 48)));
    }
    constexpr auto kLanes = static_cast<__mmask16>((1 << kRows) - 1);
    const __m512 old_maximum = _mm512_maskz_loadu_ps(kLanes, s.maximum + row);
    const __m512 maximum = larger(reduce_eight(reduced, larger), old_maximum);
    // -inf - -inf is NaN: scores that are all -inf count as 0 apart.
    const __m512 shift =
        _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(maximum, minus_infinity, _CMP_NEQ_UQ), maximum);
    const __m512 log2e = _mm512_set1_ps(1.44269504f);
    const __m512 factor = power_of_two(_mm512_mul_ps(_mm512_sub_ps(old_maximum, shift), log2e));
    alignas(64) float shifts[16];
    _mm512_store_ps(shifts, shift);
    for (int r = 0; r < kRows; ++r) {
      float* scores = s.scores + r * kKeyTile;
      const __m512 row_shift = _mm512_set1_ps(shifts[r]);
      __m512 p[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        const __m512 apart = _mm512_sub_ps(_mm512_loadu_ps(scores + 16 * i), row_shift);
        p[i] = power_of_two(_mm512_mul_ps(apart, log2e));
      }
      reduced[r] = _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
      for (int i = 0; i < kVectors; i += 2) {
        const __m512bh pairs = _mm512_cvtne2ps_pbh(p[i + 1], p[i]);
        _mm512_storeu_si512(scores + 8 * i, reinterpret_cast<__m512i>(pairs));
      }
    }
    const __m512 added =
        reduce_eight(reduced, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
    const __m512 sum = _mm512_maskz_loadu_ps(kLanes, s.sum + row);
    _mm512_mask_storeu_ps(s.sum + row, kLanes, _mm512_fmadd_ps(sum, factor, added));
    _mm512_mask_storeu_ps(s.maximum + row, kLanes, maximum);
    const __mmask16 rescaled = _mm512_mask_cmp_ps_mask(kLanes, maximum, old_maximum, _CMP_NEQ_UQ);
    if (rescaled != 0) rescale<kRows>(s, row, factor, rescaled);
  }

  template <int kRows>
  static void accumulate(const AttentionScratch& s, int64_t row, Visible keys) {
    int64_t d = 0;
    for (; d + kVectors * 16 <= s.padded; d += kVectors * 16) {
      accumulate_columns<kRows, kVectors>(s, row, d, keys);
    }
    for (; d + 32 <= s.padded; d += 32) accumulate_columns<kRows, 2>(s, row, d, keys);
    for (; d < s.padded; d += 16) accumulate_columns<kRows, 1>(s, row, d, keys);
  }

 private:
  // out of the rows in `rescaled` times their lane of `factor`.
  template <int kRows>
  static void rescale(const AttentionScratch& s, int64_t row, __m512 factor, __mmask16 rescaled) {
    alignas(64) float factors[16];
    _mm512_store_ps(factors, factor);
    for (int r = 0; r < kRows; ++r) {
      if ((rescaled >> r & 1) == 0) continue;
      const __m512 row_factor = _mm512_set1_ps(factors[r]);
      float* out = s.out + (row + r) * s.padded;
      for (int64_t d = 0; d < s.padded; d += 16) {
        _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(out + d), row_factor));
      }
    }
  }

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
