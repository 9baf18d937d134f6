#pragma once

#include "generator/kernels/attention_twins.h"
#include "generator/kernels/vec_math.h"

// Attention on a vector type V of vec_*.h with an online softmax over tiles of keys (Milakov &
// Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). Included once by each
// attention*.cpp.
//
// What makes a row's result independent of the other rows: tiles start at key 0, a score is one
// chain of multiply-adds over the head's dimensions, an output one chain over the keys, and a
// masked key adds exactly 0.
namespace quarry::kernels {
namespace {

template <typename V>
inline V load_any(const float* p) {
  return V::load(p);
}
template <typename V>
inline V load_any(const uint16_t* p) {
  return V::load_half(p);
}

inline float widen_bfloat16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  __builtin_memcpy(&out, &bits, sizeof(out));
  return out;
}

// Rounds finite values to bfloat16, to nearest even.
inline void round_to_bfloat16(float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + i, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    const bool is_special = (bits & 0x7f800000u) == 0x7f800000u;
    bits = is_special ? bits : rounded;
    __builtin_memcpy(values + i, &bits, sizeof(bits));
  }
}

// `count` elements of one cached head row to float32, padded with 0 to whole vectors.
template <typename V, typename T>
inline void widen_row(const T* row, int64_t count, float* out) {
  int64_t d = 0;
  for (; d + V::kWidth <= count; d += V::kWidth) load_any<V>(row + d).store(out + d);
  if (d < count) {
    T rest[V::kWidth] = {};
    for (int64_t i = d; i < count; ++i) rest[i - d] = row[i];
    load_any<V>(rest).store(out + d);
  }
}

// Where the parts of the scratch lie.
struct AttentionScratch {
  int64_t padded;           // padded_head_dim()
  float* q;                 // [rows][padded], scaled
  float* out;               // [rows][padded], sum of p v so far
  float* maximum;           // [rows]
  float* sum;               // [rows]
  SoftmaxRows total;        // over the segments before this one
  float* k;                 // [padded][kKeyTile]: the tile transposed
  float* v;                 // [kKeyTile][padded]
  float* scores;            // [rows of one pass][kKeyTile]
  const uint32_t* pairs_k;  // the tile in the cache, where products read it there
  const uint32_t* pairs_v;
  const uint32_t* next_k;  // the one after it, or null
  const uint32_t* next_v;

  SoftmaxRows segment() const { return {out, maximum, sum}; }
};

inline AttentionScratch split_scratch(float* scratch, int64_t rows, int64_t head_dim) {
  AttentionScratch s = {};
  s.padded = padded_head_dim(head_dim);
  s.k = scratch;
  s.v = s.k + s.padded * kKeyTile;
  s.scores = s.v + s.padded * kKeyTile;
  s.q = s.scores + 8 * kKeyTile;
  s.out = s.q + rows * s.padded;
  s.total.out = s.out + rows * s.padded;
  s.maximum = s.total.out + rows * s.padded;
  s.sum = s.maximum + rows;
  s.total.maximum = s.sum + rows;
  s.total.sum = s.total.maximum + rows;
  return s;
}

// Transposes keys [0, count) into s.k; the columns past them become 0.
template <typename V, typename T>
void load_key_tile(const AttentionScratch& s, const T* k, int64_t ldk, int64_t count,
                   int64_t head_dim) {
  float rows[V::kWidth][V::kWidth];
  for (int64_t key = 0; key < kKeyTile; key += V::kWidth) {
    for (int64_t d = 0; d < head_dim; d += V::kWidth) {
      V block[V::kWidth];
      if (key + V::kWidth <= count && d + V::kWidth <= head_dim) {
        for (int i = 0; i < V::kWidth; ++i) block[i] = load_any<V>(k + (key + i) * ldk + d);
      } else {
        for (int i = 0; i < V::kWidth; ++i) {
          V::zero().store(rows[i]);
          const int64_t rest = head_dim - d < V::kWidth ? head_dim - d : V::kWidth;
          if (key + i < count) widen_row<V>(k + (key + i) * ldk + d, rest, rows[i]);
          block[i] = V::load(rows[i]);
        }
      }
      transpose_block(block, s.k + d * kKeyTile + key, kKeyTile);
    }
  }
}

template <typename V, typename T>
void load_value_tile(const AttentionScratch& s, const T* v, int64_t ldk, int64_t count,
                     int64_t head_dim) {
  for (int64_t key = 0; key < count; ++key) {
    widen_row<V>(v + key * ldk, head_dim, s.v + key * s.padded);
  }
}

// scores[r][key] = q[r] . k[key] for the whole tile.
template <typename V, int kRows, int kVectors>
inline void score_rows(const AttentionScratch& s, int64_t row, int64_t head_dim) {
  for (int64_t key = 0; key < kKeyTile; key += kVectors * V::kWidth) {
    V total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kVectors; ++i) total[r][i] = V::zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      V keys[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        keys[i] = V::load(s.k + d * kKeyTile + key + i * V::kWidth);
      }
      for (int r = 0; r < kRows; ++r) {
        const V value = V::set1(s.q[(row + r) * s.padded + d]);
        for (int i = 0; i < kVectors; ++i) total[r][i] = fma(keys[i], value, total[r][i]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kVectors; ++i) {
        total[r][i].store(s.scores + r * kKeyTile + key + i * V::kWidth);
      }
    }
  }
}

// Keys [begin, end) of this tile that a row sees.
struct Visible {
  int64_t begin;
  int64_t end;
};

// Turns a row of scores into probabilities relative to the new maximum (0 where masked) and
// rescales what the row has so far.
template <typename V>
inline void softmax_row(const AttentionScratch& s, int64_t row, float* scores, Visible visible) {
  const float minus_infinity = -__builtin_inff();
  if (visible.begin >= visible.end) {
    for (int64_t i = 0; i < kKeyTile; i += V::kWidth) V::zero().store(scores + i);
    return;
  }
  // Vectors past the last visible key hold no probability.
  const int64_t end = (visible.end + V::kWidth - 1) / V::kWidth * V::kWidth;
  for (int64_t i = 0; i < visible.begin; ++i) scores[i] = minus_infinity;
  for (int64_t i = visible.end; i < end; ++i) scores[i] = minus_infinity;
  V largest = V::load(scores);
  for (int64_t i = V::kWidth; i < end; i += V::kWidth) {
    largest = max(largest, V::load(scores + i));
  }
  const float tile_maximum = largest.largest();
  const float old_maximum = s.maximum[row];
  const float new_maximum = tile_maximum > old_maximum ? tile_maximum : old_maximum;
  // -inf - -inf is NaN: scores that are all -inf count as 0 apart.
  const V shift = V::set1(new_maximum == minus_infinity ? 0.0f : new_maximum);
  V total = V::zero();
  for (int64_t i = 0; i < end; i += V::kWidth) {
    const V p = vexp(V::load(scores + i) - shift);
    p.store(scores + i);
    total = total + p;
  }
  for (int64_t i = end; i < kKeyTile; i += V::kWidth) V::zero().store(scores + i);
  if (new_maximum != old_maximum) {
    float factors[V::kWidth];
    vexp(V::set1(old_maximum) - shift).store(factors);
    const V factor = V::set1(factors[0]);
    float* out = s.out + row * s.padded;
    for (int64_t d = 0; d < s.padded; d += V::kWidth) (V::load(out + d) * factor).store(out + d);
    s.sum[row] *= factors[0];
    s.maximum[row] = new_maximum;
  }
  s.sum[row] += total.sum();
}

// out[row + r] += sum over the keys [begin, end) of the tile of p v.
template <typename V, int kRows, int kVectors>
inline void accumulate_columns(const AttentionScratch& s, int64_t row, int64_t d, Visible keys) {
  V total[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      total[r][i] = V::load(s.out + (row + r) * s.padded + d + i * V::kWidth);
    }
  }
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    V values[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      values[i] = V::load(s.v + key * s.padded + d + i * V::kWidth);
    }
    for (int r = 0; r < kRows; ++r) {
      const V p = V::set1(s.scores[r * kKeyTile + key]);
      for (int i = 0; i < kVectors; ++i) total[r][i] = fma(values[i], p, total[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      total[r][i].store(s.out + (row + r) * s.padded + d + i * V::kWidth);
    }
  }
}

template <typename V, int kRows, int kVectors>
inline void accumulate_rows(const AttentionScratch& s, int64_t row, Visible keys) {
  int64_t d = 0;
  for (; d + kVectors * V::kWidth <= s.padded; d += kVectors * V::kWidth) {
    accumulate_columns<V, kRows, kVectors>(s, row, d, keys);
  }
  for (; d < s.padded; d += V::kWidth) accumulate_columns<V, kRows, 1>(s, row, d, keys);
}

inline Visible visible_keys(const AttentionShape& shape, int64_t query, int64_t tile) {
  int64_t begin = 0;
  int64_t end = shape.num_keys;
  if (shape.causal) {
    end = shape.num_keys - shape.num_queries + query + 1;
    if (shape.window > 0 && end > shape.window) begin = end - shape.window;
  }
  begin = begin > tile ? begin - tile : 0;
  end = end - tile < kKeyTile ? end - tile : kKeyTile;
  return {begin, end > begin ? end : begin};
}

// scores[i] += slope * (first + i) for the keys of a tile; `first`: its first key seen from the
// query.
inline void add_alibi(float slope, int64_t first, float* scores) {
  for (int64_t i = 0; i < kKeyTile; ++i) scores[i] += slope * static_cast<float>(first + i);
}

// The same with the biases of one head.
inline void add_tile_bias(const RelativeBias& bias, int64_t head, int64_t first, float* scores) {
  const float* middle = bias.table + head * (2 * bias.reach + 1) + bias.reach;
  for (int64_t i = 0; i < kKeyTile; ++i) {
    const int64_t distance = first + i < bias.reach ? first + i : bias.reach;
    scores[i] += middle[distance > -bias.reach ? distance : -bias.reach];
  }
}

// Where one kv head's tile lies in the cache: rows of keys and of values.
template <typename T>
struct KeyValueRows {
  const T* k;
  const T* v;
};

template <typename T>
inline KeyValueRows<T> rows_at(const KeyValuePages<T>& kv, const AttentionShape& shape,
                               int64_t kv_head, int64_t tile) {
  const int64_t page = tile / kv.page_keys;
  const int64_t offset = tile % kv.page_keys * shape.ldk + kv_head * shape.head_dim;
  return {kv.k_pages[page] + kv.k_offset + offset, kv.v_pages[page] + kv.v_offset + offset};
}

// The pairs of keys and those of values.
inline KeyValueRows<uint32_t> pairs_at(const KeyValueTiles& kv, const AttentionScratch& s,
                                       int64_t kv_head, int64_t tile) {
  const int64_t offset = kv_head * kKeyTile * s.padded;
  const uint16_t* k = kv.k_pages[tile / kKeyTile] + kv.k_offset + offset;
  const uint16_t* v = kv.v_pages[tile / kKeyTile] + kv.v_offset + offset;
  return {reinterpret_cast<const uint32_t*>(k), reinterpret_cast<const uint32_t*>(v)};
}

// Asks for rows that come next: a head's are too far apart for the CPU to see a pattern.
template <typename T>
inline void fetch_rows(const KeyValueRows<T>& rows, int64_t count, const AttentionShape& shape) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < shape.head_dim; d += kLine) {
      __builtin_prefetch(rows.k + i * shape.ldk + d);
      __builtin_prefetch(rows.v + i * shape.ldk + d);
    }
  }
}

// Keys [tile, last_key) of one kv head, a tile at most.
struct TileKeys {
  int64_t kv_head;
  int64_t tile;
  int64_t last_key;
  int64_t count(int64_t from) const {
    return last_key - from < kKeyTile ? last_key - from : kKeyTile;
  }
};

template <typename V, typename T>
void load_tile_of(const AttentionScratch& s, const AttentionShape& shape,
                  const KeyValuePages<T>& kv, const TileKeys& keys) {
  const KeyValueRows<T> rows = rows_at(kv, shape, keys.kv_head, keys.tile);
  const int64_t next = keys.tile + kKeyTile;
  if (next < keys.last_key) {
    fetch_rows(rows_at(kv, shape, keys.kv_head, next), keys.count(next), shape);
  }
  load_key_tile<V>(s, rows.k, shape.ldk, keys.count(keys.tile), shape.head_dim);
  load_value_tile<V>(s, rows.v, shape.ldk, keys.count(keys.tile), shape.head_dim);
}

// What the tile holds past the last key is not looked at: it may be anything.
template <typename V>
void load_tile_of(const AttentionScratch& s, const AttentionShape&, const KeyValueTiles& kv,
                  const TileKeys& keys) {
  const KeyValueRows<uint32_t> pairs = pairs_at(kv, s, keys.kv_head, keys.tile);
  const int64_t count = keys.count(keys.tile);
  const auto even = [](uint32_t pair) { return widen_bfloat16(static_cast<uint16_t>(pair)); };
  const auto odd = [](uint32_t pair) { return widen_bfloat16(static_cast<uint16_t>(pair >> 16)); };
  for (int64_t d = 0; d < s.padded; d += 2) {
    for (int64_t key = 0; key < kKeyTile; ++key) {
      const uint32_t pair = key < count ? pairs.k[d / 2 * kKeyTile + key] : 0;
      s.k[d * kKeyTile + key] = even(pair);
      s.k[(d + 1) * kKeyTile + key] = odd(pair);
    }
  }
  for (int64_t key = 0; key < count; key += 2) {
    for (int64_t d = 0; d < s.padded; ++d) {
      const uint32_t pair = pairs.v[key / 2 * s.padded + d];
      s.v[key * s.padded + d] = even(pair);
      s.v[(key + 1) * s.padded + d] = odd(pair);
    }
  }
}

// Products in float32 with the register tile kMaxRows x kVectors. Of bfloat16 keys and values the
// queries and the probabilities are rounded to it as well.
template <typename TheVec, int kTheMaxRows, int kVectors, typename Cache>
struct FloatProducts {
  using V = TheVec;
  static constexpr int kMaxRows = kTheMaxRows;

  static void begin(const AttentionScratch& s, int64_t rows) {
    if (rounds(static_cast<const Cache*>(nullptr))) round_to_bfloat16(s.q, rows * s.padded);
  }
  static void load_tile(AttentionScratch& s, const AttentionShape& shape, const Cache& kv,
                        const TileKeys& keys, int64_t) {
    load_tile_of<V>(s, shape, kv, keys);
  }
  template <int kRows>
  static void score(const AttentionScratch& s, int64_t row, int64_t head_dim) {
    score_rows<V, kRows, kVectors>(s, row, head_dim);
  }
  template <int kRows>
  static void softmax(const AttentionScratch& s, int64_t row, const Visible* seen) {
    for (int r = 0; r < kRows; ++r) {
      softmax_row<V>(s, row + r, s.scores + r * kKeyTile, seen[r]);
    }
  }
  template <int kRows>
  static void accumulate(const AttentionScratch& s, int64_t row, Visible keys) {
    if (rounds(static_cast<const Cache*>(nullptr))) {
      round_to_bfloat16(s.scores, kRows * kKeyTile);
    }
    accumulate_rows<V, kRows, kVectors>(s, row, keys);
  }

 private:
  static constexpr bool rounds(const void*) { return false; }
  static constexpr bool rounds(const KeyValueTiles*) { return true; }
};

// kRows rows of the task against the tile that is loaded.
template <typename Products, int kRows>
void attend_rows(const AttentionShape& shape, const AttentionTask& task, const AttentionScratch& s,
                 int64_t row, int64_t tile) {
  const int64_t group = task.head_end - task.head_begin;
  Visible seen[kRows];
  Visible all = {kKeyTile, 0};
  int64_t queries[kRows];
  int64_t heads[kRows];
  for (int r = 0; r < kRows; ++r) {
    const bool is_next = r > 0 && heads[r - 1] + 1 < task.head_end;  // a division costs more
    heads[r] = r == 0    ? task.head_begin + row % group
               : is_next ? heads[r - 1] + 1
                         : task.head_begin;
    queries[r] = r == 0 ? task.query_begin + row / group : queries[r - 1] + (is_next ? 0 : 1);
    seen[r] = visible_keys(shape, queries[r], tile);
    if (seen[r].begin >= seen[r].end) continue;
    all.begin = seen[r].begin < all.begin ? seen[r].begin : all.begin;
    all.end = seen[r].end > all.end ? seen[r].end : all.end;
  }
  if (all.begin >= all.end) return;
  Products::template score<kRows>(s, row, shape.head_dim);
  if (shape.alibi_slopes != nullptr || shape.relative_bias.table != nullptr) {
    for (int r = 0; r < kRows; ++r) {
      const int64_t first = tile - (shape.num_keys - shape.num_queries + queries[r]);
      float* scores = s.scores + r * kKeyTile;
      if (shape.alibi_slopes != nullptr) add_alibi(shape.alibi_slopes[heads[r]], first, scores);
      if (shape.relative_bias.table != nullptr) {
        add_tile_bias(shape.relative_bias, heads[r], first, scores);
      }
    }
  }
  Products::template softmax<kRows>(s, row, seen);
  Products::template accumulate<kRows>(s, row, all);
}

inline int64_t rows_of(const AttentionTask& task) {
  return (task.head_end - task.head_begin) * (task.query_end - task.query_begin);
}

template <typename V>
void load_queries(const AttentionShape& shape, const AttentionTask& task, const AttentionScratch& s,
                  const float* q) {
  const int64_t group = task.head_end - task.head_begin;
  const int64_t rows = rows_of(task);
  const int64_t padded = s.padded;
  const V scale = V::set1(shape.scale);
  for (int64_t row = 0; row < rows; ++row) {
    const float* source = q + (task.query_begin + row / group) * shape.ldq +
                          (task.head_begin + row % group) * shape.head_dim;
    float* target = s.q + row * padded;
    int64_t d = 0;
    for (; d + V::kWidth <= shape.head_dim; d += V::kWidth) {
      (V::load(source + d) * scale).store(target + d);
    }
    for (; d < shape.head_dim; ++d) target[d] = source[d] * shape.scale;
    for (; d < padded; ++d) target[d] = 0.0f;
  }
}

template <typename V>
void clear_rows(const SoftmaxRows& sums, int64_t rows, int64_t padded) {
  for (int64_t i = 0; i < rows * padded; i += V::kWidth) V::zero().store(sums.out + i);
  for (int64_t row = 0; row < rows; ++row) {
    sums.maximum[row] = -__builtin_inff();
    sums.sum[row] = 0.0f;
  }
}

inline void copy_rows(const SoftmaxRows& from, int64_t rows, int64_t padded,
                      const SoftmaxRows& to) {
  for (int64_t i = 0; i < rows * padded; ++i) to.out[i] = from.out[i];
  for (int64_t row = 0; row < rows; ++row) {
    to.maximum[row] = from.maximum[row];
    to.sum[row] = from.sum[row];
  }
}

template <typename V>
void write_rows(const AttentionShape& shape, const AttentionTask& task, const SoftmaxRows& sums,
                int64_t padded, float* out) {
  const int64_t group = task.head_end - task.head_begin;
  const int64_t rows = rows_of(task);
  for (int64_t row = 0; row < rows; ++row) {
    float* target = out + (task.query_begin + row / group) * shape.ldo +
                    (task.head_begin + row % group) * shape.head_dim;
    const float* source = sums.out + row * padded;
    const float inverse = 1.0f / sums.sum[row];
    int64_t d = 0;
    for (; d + V::kWidth <= shape.head_dim; d += V::kWidth) {
      (V::load(source + d) * V::set1(inverse)).store(target + d);
    }
    for (; d < shape.head_dim; ++d) target[d] = source[d] * inverse;
  }
}

struct KeyRange {
  int64_t begin;
  int64_t end;
};

// Keys that one of the queries [begin, end) sees.
inline KeyRange keys_seen(const AttentionShape& shape, int64_t begin, int64_t end) {
  KeyRange keys = {0, shape.num_keys};
  if (shape.causal) {
    const int64_t past = shape.num_keys - shape.num_queries;
    keys.end = past + end;
    if (shape.window > 0 && past + begin + 1 > shape.window) {
      keys.begin = past + begin + 1 - shape.window;
    }
  }
  return keys;
}

inline KeyRange segments_of(const KeyRange& keys) {
  return {keys.begin / kSegmentKeys, (keys.end + kSegmentKeys - 1) / kSegmentKeys};
}

// The softmax of the task's rows over the keys of one segment among `keys`.
template <typename Products, typename Cache>
void attend_segment(const AttentionShape& shape, const AttentionTask& task, const Cache& kv,
                    const KeyRange& keys, int64_t segment, AttentionScratch& s) {
  const int64_t rows = rows_of(task);
  clear_rows<typename Products::V>(s.segment(), rows, s.padded);
  const int64_t first = segment * kSegmentKeys;
  const int64_t begin = first < keys.begin ? keys.begin / kKeyTile * kKeyTile : first;
  const int64_t end = first + kSegmentKeys < keys.end ? first + kSegmentKeys : keys.end;
  for (int64_t tile = begin; tile < end; tile += kKeyTile) {
    Products::load_tile(s, shape, kv, {task.kv_head, tile, keys.end}, rows);
    constexpr int kRows = Products::kMaxRows;
    int64_t row = 0;
    for (; row + kRows <= rows; row += kRows) {
      attend_rows<Products, kRows>(shape, task, s, row, tile);
    }
    for (; row + 3 <= rows; row += 3) attend_rows<Products, 3>(shape, task, s, row, tile);
    for (; row < rows; ++row) attend_rows<Products, 1>(shape, task, s, row, tile);
  }
}

template <typename Products, typename Cache>
void attention_task_body(const AttentionShape& shape, const AttentionTask& task, const float* q,
                         const Cache& kv, float* out, float* scratch) {
  using V = typename Products::V;
  const int64_t rows = rows_of(task);
  AttentionScratch s = split_scratch(scratch, rows, shape.head_dim);
  load_queries<V>(shape, task, s, q);
  Products::begin(s, rows);
  const KeyRange keys = keys_seen(shape, task.query_begin, task.query_end);
  if (task.part != nullptr) {
    attend_segment<Products>(shape, task, kv, keys, task.segment, s);
    return copy_rows(s.segment(), rows, s.padded, *task.part);
  }
  const KeyRange segments = segments_of(keys);
  if (segments.end - segments.begin == 1) {
    attend_segment<Products>(shape, task, kv, keys, segments.begin, s);
    return write_rows<V>(shape, task, s.segment(), s.padded, out);
  }
  clear_rows<V>(s.total, rows, s.padded);
  for (int64_t segment = segments.begin; segment < segments.end; ++segment) {
    attend_segment<Products>(shape, task, kv, keys, segment, s);
    fold_rows(s.segment(), rows, s.padded, s.total);
  }
  write_rows<V>(shape, task, s.total, s.padded, out);
}

}  // namespace
}  // namespace quarry::kernels
