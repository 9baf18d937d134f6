#include "generator/kernels/tree_attention_bfloat16.h"

#include <algorithm>
#include <cstring>

#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/gemm_bfloat16.h"
#include "generator/kernels/tree_walk.h"

namespace quarry::kernels {
namespace {

// The rows of a path's matrices are so long that neighbours do not fall on the same sets of the
// cache, and hold whole pairs.
int64_t path_stride(int64_t longest) { return (longest + 31) / 32 * 32 + 16; }

int64_t round_to_pairs(int64_t count) { return (count + 1) / 2 * 2; }

const BFloat16Pair* as_pairs(const uint16_t* values) {
  return reinterpret_cast<const BFloat16Pair*>(values);
}

// A matrix [rows, width] of bfloat16 in pairs of rows: row p of [rows / 2, width] holds 2 p and
// 2 p + 1.
struct PairedRows {
  int64_t width = 0;
  std::vector<BFloat16Pair> pairs;

  void reserve(int64_t rows, int64_t columns) {
    width = columns;
    pairs.resize(static_cast<size_t>(round_to_pairs(rows) / 2 * columns));
  }
  BFloat16Pair* pair_row(int64_t pair) { return pairs.data() + pair * width; }
  // Puts `count` rows of `columns` elements at row `start`. A last row without a partner is paired
  // with zeros, a first one with what stands before it.
  void put(const uint16_t* rows, int64_t row_stride, int64_t count, int64_t start,
           int64_t columns) {
    int64_t i = 0;
    if (start % 2 != 0) {
      BFloat16Pair* pair = pair_row(start / 2);
      for (int64_t j = 0; j < columns; ++j) pair[j].odd = rows[j];
      ++i;
    }
    for (; i + 2 <= count; i += 2) {
      const uint16_t* row = rows + i * row_stride;
      interleave(row, row + row_stride, columns,
                 reinterpret_cast<uint16_t*>(pair_row((start + i) / 2)));
    }
    if (i == count) return;
    BFloat16Pair* pair = pair_row((start + i) / 2);
    for (int64_t j = 0; j < columns; ++j) pair[j] = {rows[i * row_stride + j], 0};
  }
};

// to[d * stride + i] = from[i * row_stride + d], 16 rows at a time so that a line of `to` is
// written whole.
void transpose_pairs(const BFloat16Pair* from, int64_t row_stride, int64_t rows, int64_t dim,
                     BFloat16Pair* to, int64_t stride) {
  constexpr int64_t kRows = 16;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t last = std::min(rows, first + kRows);
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t i = first; i < last; ++i) to[d * stride + i] = from[i * row_stride + d];
    }
  }
}

// Where one query head finds its operands. Strides of rows count elements.
struct HeadView {
  const TreeAttentionShape* shape;
  int64_t row_stride;  // of qkv
  const uint16_t* queries;
  const uint16_t* keys;  // of its kv head
  const uint16_t* values;

  GemmShape scores_shape(int64_t count, int64_t keys_seen, int64_t stride) const {
    GemmShape scores;  // [count, keys] = queries [count, D] * keys^T
    scores.m = count;
    scores.n = keys_seen;
    scores.k = shape->head_dim / 2;
    scores.a_row_stride = row_stride / 2;
    scores.ldb = scores.ldc = stride;
    return scores;
  }
};

HeadView view_head(const TreeAttentionShape& shape, const uint16_t* qkv, int64_t head) {
  const int64_t dim = shape.head_dim;
  const int64_t q_width = shape.num_heads * dim;
  HeadView view = {};
  view.shape = &shape;
  view.row_stride = q_width + 2 * shape.num_kv_heads * dim;
  view.queries = qkv + head * dim;
  view.keys = qkv + q_width + head / (shape.num_heads / shape.num_kv_heads) * dim;
  view.values = view.keys + shape.num_kv_heads * dim;
  return view;
}

// Memory of the walks, kept from call to call.
struct PathBuffers {
  int64_t longest = 0;                          // stride of what has a column a row of the path
  std::vector<BFloat16Pair> keys_transposed;    // [D / 2, longest]
  std::vector<BFloat16Pair> values_transposed;  // the same
  PairedRows rows;                              // [longest, D]: values (forward) or keys
  std::vector<float> key_gradients;             // [longest, D]
  std::vector<float> value_gradients;           // the same
  std::vector<float> p;                         // [queries, longest]
  std::vector<float> dp;                        // the same
  std::vector<uint16_t> p_rows;                 // the same
  std::vector<uint16_t> dp_rows;                // the same
  PairedRows p_pairs;                           // the same
  PairedRows dp_pairs;                          // the same
  std::vector<uint16_t> gradient_rows;          // [queries, D]
  PairedRows gradient_pairs;                    // the same
  PairedRows query_pairs;                       // the same

  void reserve_forward(const Paths& paths, int64_t dim, int64_t queries) {
    longest = path_stride(paths.longest);
    keys_transposed.resize(static_cast<size_t>(longest * dim / 2));
    rows.reserve(longest, dim);
    p.resize(static_cast<size_t>(queries * longest));
    p_rows.resize(p.size());
  }
  void reserve_backward(const Paths& paths, int64_t dim, int64_t queries) {
    reserve_forward(paths, dim, queries);
    values_transposed.resize(keys_transposed.size());
    key_gradients.resize(static_cast<size_t>(longest * dim));
    value_gradients.resize(key_gradients.size());
    dp.resize(p.size());
    dp_rows.resize(p.size());
    p_pairs.reserve(queries, longest);
    dp_pairs.reserve(queries, longest);
    gradient_rows.resize(static_cast<size_t>(queries * dim));
    gradient_pairs.reserve(queries, dim);
    query_pairs.reserve(queries, dim);
  }
};

// For walk_tree: one head forward.
struct ForwardHead {
  static constexpr int64_t kQueryTile = 24;
  HeadView view;
  PathBuffers& path;
  float* out;  // row 0 of this head
  int64_t out_stride;

  void enter(const TreeSegment& segment, int64_t start) {
    const int64_t dim = view.shape->head_dim;
    const int64_t rows = segment.end - segment.begin;
    const int64_t first = segment.begin * view.row_stride;
    transpose_pairs(as_pairs(view.keys + first), view.row_stride / 2, rows, dim / 2,
                    path.keys_transposed.data() + start, path.longest);
    path.rows.put(view.values + first, view.row_stride, rows, start, dim);
  }

  void attend(int64_t row, int64_t count, int64_t past) {
    const int64_t dim = view.shape->head_dim;
    const int64_t keys = past + count;  // the last row's view
    const int64_t even_keys = round_to_pairs(keys);
    gemm_bfloat16_serial(view.scores_shape(count, keys, path.longest),
                         as_pairs(view.queries + row * view.row_stride),
                         path.keys_transposed.data(), path.p.data());
    for (int64_t i = 0; i < count; ++i) {
      float* p = path.p.data() + i * path.longest;
      const int64_t visible = past + i + 1;
      softmax(p, visible, view.shape->scale);
      std::fill(p + visible, p + even_keys, 0.0f);
      float_to_bfloat16(p, even_keys, path.p_rows.data() + i * path.longest);
    }
    GemmShape product;  // [count, D] = p [count, keys] * values [keys, D]
    product.m = count;
    product.n = dim;
    product.k = even_keys / 2;
    product.a_row_stride = path.longest / 2;
    product.ldb = dim;
    product.ldc = out_stride;
    gemm_bfloat16_serial(product, as_pairs(path.p_rows.data()), path.rows.pairs.data(),
                         out + row * out_stride);
  }

  void leave(const TreeSegment&, int64_t) {}
};

// For walk_tree: one head backward.
struct BackwardHead {
  static constexpr int64_t kQueryTile = 48;
  HeadView view;
  PathBuffers& path;
  const float* gradient;  // row 0 of this head
  int64_t gradient_stride;
  float* query_gradients;  // row 0 of this head, rows as far apart as those of qkv
  float* key_gradients;    // [T, D], this query head's part
  float* value_gradients;  // the same

  void enter(const TreeSegment& segment, int64_t start) {
    const int64_t dim = view.shape->head_dim;
    const int64_t rows = segment.end - segment.begin;
    const int64_t first = segment.begin * view.row_stride;
    transpose_pairs(as_pairs(view.keys + first), view.row_stride / 2, rows, dim / 2,
                    path.keys_transposed.data() + start, path.longest);
    transpose_pairs(as_pairs(view.values + first), view.row_stride / 2, rows, dim / 2,
                    path.values_transposed.data() + start, path.longest);
    path.rows.put(view.keys + first, view.row_stride, rows, start, dim);
    for (auto* buffer : {&path.key_gradients, &path.value_gradients}) {
      std::fill_n(buffer->begin() + start * dim, rows * dim, 0.0f);
    }
  }

  void attend(int64_t row, int64_t count, int64_t past) {
    const int64_t dim = view.shape->head_dim;
    if (!has_gradient(row, count)) {
      for (int64_t i = row; i < row + count; ++i) {
        std::fill_n(query_gradients + i * view.row_stride, dim, 0.0f);
      }
      return;
    }
    const uint16_t* queries = view.queries + row * view.row_stride;
    for (int64_t i = 0; i < count; ++i) {
      float_to_bfloat16(gradient + (row + i) * gradient_stride, dim,
                        path.gradient_rows.data() + i * dim);
    }
    path.gradient_pairs.put(path.gradient_rows.data(), dim, count, 0, dim);
    path.query_pairs.put(queries, view.row_stride, count, 0, dim);
    compute_probabilities(queries, count, past);
    add_to_keys(count, past + count);

    GemmShape to_queries;  // [count, D] = dp [count, keys] * keys [keys, D]
    to_queries.m = count;
    to_queries.n = dim;
    to_queries.k = (past + count + 1) / 2;
    to_queries.a_row_stride = path.longest / 2;
    to_queries.ldb = dim;
    to_queries.ldc = view.row_stride;
    gemm_bfloat16_serial(to_queries, as_pairs(path.dp_rows.data()), path.rows.pairs.data(),
                         query_gradients + row * view.row_stride);
  }

  // In the last layer only rows with a target have one.
  bool has_gradient(int64_t row, int64_t count) const {
    for (int64_t i = row; i < row + count; ++i) {
      const float* values = gradient + i * gradient_stride;
      if (std::any_of(values, values + view.shape->head_dim, [](float g) { return g != 0.0f; })) {
        return true;
      }
    }
    return false;
  }

  // p and the gradient dp of the scores, as rows and in pairs of queries.
  void compute_probabilities(const uint16_t* queries, int64_t count, int64_t past) {
    const int64_t keys = past + count;
    const int64_t even_keys = round_to_pairs(keys);
    GemmShape scores = view.scores_shape(count, keys, path.longest);
    gemm_bfloat16_serial(scores, as_pairs(queries), path.keys_transposed.data(), path.p.data());
    scores.a_row_stride = view.shape->head_dim / 2;
    gemm_bfloat16_serial(scores, as_pairs(path.gradient_rows.data()), path.values_transposed.data(),
                         path.dp.data());
    for (int64_t i = 0; i < count; ++i) {
      float* p = path.p.data() + i * path.longest;
      float* dp = path.dp.data() + i * path.longest;
      const int64_t visible = past + i + 1;
      softmax(p, visible, view.shape->scale);
      softmax_backward(p, dp, visible, view.shape->scale, dp);
      std::fill(p + visible, p + even_keys, 0.0f);
      std::fill(dp + visible, dp + even_keys, 0.0f);
      float_to_bfloat16(p, even_keys, path.p_rows.data() + i * path.longest);
      float_to_bfloat16(dp, even_keys, path.dp_rows.data() + i * path.longest);
    }
    path.p_pairs.put(path.p_rows.data(), path.longest, count, 0, keys);
    path.dp_pairs.put(path.dp_rows.data(), path.longest, count, 0, keys);
  }

  void add_to_keys(int64_t count, int64_t keys) {
    GemmShape to_keys;  // [keys, D] += p^T [keys, count] * rows [count, D]
    to_keys.m = keys;
    to_keys.n = view.shape->head_dim;
    to_keys.k = (count + 1) / 2;
    to_keys.a_row_stride = 1;
    to_keys.a_column_stride = path.longest;
    to_keys.ldb = to_keys.ldc = view.shape->head_dim;
    to_keys.accumulate = true;
    gemm_bfloat16_serial(to_keys, path.p_pairs.pairs.data(), path.gradient_pairs.pairs.data(),
                         path.value_gradients.data());
    gemm_bfloat16_serial(to_keys, path.dp_pairs.pairs.data(), path.query_pairs.pairs.data(),
                         path.key_gradients.data());
  }

  void leave(const TreeSegment& segment, int64_t start) {
    const int64_t dim = view.shape->head_dim;
    const size_t bytes = static_cast<size_t>((segment.end - segment.begin) * dim) * sizeof(float);
    std::memcpy(key_gradients + segment.begin * dim, path.key_gradients.data() + start * dim,
                bytes);
    std::memcpy(value_gradients + segment.begin * dim, path.value_gradients.data() + start * dim,
                bytes);
  }
};

PathBuffers& thread_buffers() {
  thread_local PathBuffers buffers;
  return buffers;
}

bool takes_pairs(const TreeAttentionShape& shape) {
  return multiplies_bfloat16() && shape.head_dim % 2 == 0;
}

std::vector<float> widen(const TreeAttentionShape& shape, int64_t num_rows, const uint16_t* qkv) {
  const int64_t width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  std::vector<float> wide(static_cast<size_t>(num_rows * width));
  parallel_for(num_rows, 64, [&](int64_t begin, int64_t end) {
    bfloat16_to_float(qkv + begin * width, (end - begin) * width, wide.data() + begin * width);
  });
  return wide;
}

}  // namespace

void tree_attention_bfloat16(const TreeAttentionShape& shape,
                             const std::vector<TreeSegment>& segments, const uint16_t* qkv,
                             float* out) {
  const Paths paths = find_paths(segments);
  if (!takes_pairs(shape)) {
    return tree_attention(shape, segments, widen(shape, paths.num_rows, qkv).data(), out);
  }
  const std::vector<size_t> roots = find_roots(segments);
  const auto num_trees = static_cast<int64_t>(roots.size()) - 1;
  parallel_for(shape.num_heads * num_trees, 1, [&](int64_t begin, int64_t end) {
    PathBuffers& path = thread_buffers();
    path.reserve_forward(paths, shape.head_dim, ForwardHead::kQueryTile);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t head = unit / num_trees;
      const auto tree = static_cast<size_t>(unit % num_trees);
      ForwardHead walk = {view_head(shape, qkv, head), path, out + head * shape.head_dim,
                          shape.num_heads * shape.head_dim};
      walk_tree(segments, paths, roots[tree], roots[tree + 1], walk);
    }
  });
}

void tree_attention_bfloat16_backward(const TreeAttentionShape& shape,
                                      const std::vector<TreeSegment>& segments, const uint16_t* qkv,
                                      const float* gradient, float* dqkv) {
  const Paths paths = find_paths(segments);
  if (!takes_pairs(shape)) {
    return tree_attention_backward(shape, segments, widen(shape, paths.num_rows, qkv).data(),
                                   gradient, dqkv);
  }
  const int64_t dim = shape.head_dim;
  const int64_t part = paths.num_rows * dim;
  thread_local std::vector<float> part_memory;  // new memory costs as much as the arithmetic
  part_memory.resize(static_cast<size_t>(2 * shape.num_heads * part));
  float* key_parts = part_memory.data();
  float* value_parts = key_parts + shape.num_heads * part;
  const std::vector<size_t> roots = find_roots(segments);
  const auto num_trees = static_cast<int64_t>(roots.size()) - 1;
  parallel_for(shape.num_heads * num_trees, 1, [&](int64_t begin, int64_t end) {
    PathBuffers& path = thread_buffers();
    path.reserve_backward(paths, dim, BackwardHead::kQueryTile);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t head = unit / num_trees;
      const auto tree = static_cast<size_t>(unit % num_trees);
      BackwardHead walk = {view_head(shape, qkv, head), path,
                           gradient + head * dim,       shape.num_heads * dim,
                           dqkv + head * dim,           key_parts + head * part,
                           value_parts + head * part};
      walk_tree(segments, paths, roots[tree], roots[tree + 1], walk);
    }
  });
  sum_head_parts(shape, paths.num_rows, key_parts, value_parts, dqkv);
}

}  // namespace quarry::kernels
