#pragma once

#include <cstdint>

namespace quarry::kernels {

// Biases of scores by the distance between key and query (Raffel et al. 2020, arXiv:1910.10683):
// head h adds table[h * (2 R + 1) + R + d], d = key - query, or -R or R where it is beyond those.
struct RelativeBias {
  const float* table = nullptr;  // [H, 2 R + 1]; null: none
  int64_t reach = 0;             // R
};

// Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) of one sequence.
//   q [T, H, D]  out [T, H, D]  row stride ldq / ldo floats (H*D when packed)
//   k, v: S rows; row s of head h at  k + s * ldk + h * D  (float32 or IEEE half), or tiles
// Query t sees keys [max(0, S - T + t + 1 - window), S - T + t] when `causal`, else all S keys.
// Softmax runs in float32. Scores are multiplied by `scale`; with `alibi_slopes` (Press et al.
// 2021, arXiv:2108.12409) head h then adds alibi_slopes[h] * (key - query), places counted from key
// 0 and query t standing at S - T + t; relative_bias counts them likewise. REQUIRES: H % K == 0,
// D <= 256, S >= 1, S >= T when `causal`.
struct AttentionShape {
  int64_t num_queries = 0;   // T
  int64_t num_keys = 0;      // S
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // K
  int64_t head_dim = 0;      // D
  int64_t ldq = 0;
  int64_t ldk = 0;  // in elements of the cache's type; the same for k and v
  int64_t ldo = 0;
  float scale = 1.0f;
  bool causal = true;
  int64_t window = 0;                   // 0: no sliding window
  const float* alibi_slopes = nullptr;  // [H], or null
  RelativeBias relative_bias;
};

// Where keys and values lie: row s of k at k_pages[s / page_keys] + k_offset + (s % page_keys) *
// ldk, of v likewise. REQUIRES: page_keys is a multiple of 64, or at least S.
template <typename T>
struct KeyValuePages {
  const T* const* k_pages = nullptr;
  const T* const* v_pages = nullptr;
  int64_t page_keys = 0;
  int64_t k_offset = 0;
  int64_t v_offset = 0;
};

// Keys and values as bfloat16, tile t of 64 keys at k_pages[t] + k_offset and v_pages[t] +
// v_offset, laid out as key_value_tiles.h says. shape.ldk has no meaning.
struct KeyValueTiles {
  const uint16_t* const* k_pages = nullptr;
  const uint16_t* const* v_pages = nullptr;
  int64_t k_offset = 0;
  int64_t v_offset = 0;
};

void attention(const AttentionShape& shape, const float* q, const KeyValuePages<float>& kv,
               float* out);
// Keys and values as IEEE half bits.
void attention(const AttentionShape& shape, const float* q, const KeyValuePages<uint16_t>& kv,
               float* out);
// The scaled queries and the probabilities are rounded to bfloat16, too.
void attention(const AttentionShape& shape, const float* q, const KeyValueTiles& kv, float* out);
// Keys and values without pages.
void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out);
void attention(const AttentionShape& shape, const float* q, const uint16_t* k, const uint16_t* v,
               float* out);

}  // namespace quarry::kernels
