#include "generator/kernels/tree_attention.h"

#include <algorithm>
#include <cstring>

#include "data/core/parallel_for.h"
#include "generator/kernels/attention.h"
#include "generator/kernels/attention_backward.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/kernels/gemm.h"
#include "generator/kernels/tree_walk.h"

namespace quarry::kernels {
namespace {

// Queries that share a pass over the keys: a multiple of gemm's register tile.
constexpr int64_t kQueryTile = 24;

// One head's rows of the path that is being walked, and the gradients of its keys and values. Kept
// from call to call: memory that is new each time costs as much as the arithmetic.
struct PathBuffers {
  int64_t head_dim = 0;
  int64_t longest = 0;
  std::vector<float> keys;               // [longest, D]
  std::vector<float> keys_transposed;    // [D, longest]
  std::vector<float> values_transposed;  // [D, longest]
  std::vector<float> key_gradients;      // [longest, D]
  std::vector<float> value_gradients;    // [longest, D]
  std::vector<float> p;                  // [kQueryTile, longest]
  std::vector<float> dp;                 // the same

  void reserve(int64_t longest_path, int64_t dim) {
    head_dim = dim;
    longest = longest_path;
    const size_t matrix = static_cast<size_t>(longest * head_dim);
    for (auto* buffer :
         {&keys, &keys_transposed, &values_transposed, &key_gradients, &value_gradients}) {
      buffer->resize(matrix);
    }
    p.resize(static_cast<size_t>(kQueryTile * longest));
    dp.resize(p.size());
  }
};

// What tree_attention_backward works on for one query head.
struct HeadTask {
  const TreeAttentionShape* shape;
  int64_t head;
  float alibi_slope;       // of this head; 0: none
  int64_t row_stride;      // of qkv
  const float* queries;    // row 0 of this head
  const float* keys;       // row 0 of its kv head
  const float* values;     // the same
  const float* gradient;   // row 0 of this head, row stride H D
  float* query_gradients;  // row stride row_stride
  float* key_gradients;    // [T, D], this query head's part
  float* value_gradients;  // the same
};

// to[d * stride + i] = from[i * row_stride + d], 16 rows at a time so that a line of `to` is
// written whole.
void transpose_rows(const float* from, int64_t row_stride, int64_t rows, int64_t dim, float* to,
                    int64_t stride) {
  constexpr int64_t kRows = 16;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t count = std::min(kRows, rows - first);
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t i = first; i < first + count; ++i) to[d * stride + i] = from[i * row_stride + d];
    }
  }
}

// Puts the rows of a segment behind those of its ancestors.
void enter(const HeadTask& task, const TreeSegment& segment, int64_t start, PathBuffers& path) {
  const int64_t dim = path.head_dim;
  const int64_t rows = segment.end - segment.begin;
  const float* keys = task.keys + segment.begin * task.row_stride;
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(path.keys.data() + (start + i) * dim, keys + i * task.row_stride,
                static_cast<size_t>(dim) * sizeof(float));
  }
  transpose_rows(keys, task.row_stride, rows, dim, path.keys_transposed.data() + start,
                 path.longest);
  transpose_rows(task.values + segment.begin * task.row_stride, task.row_stride, rows, dim,
                 path.values_transposed.data() + start, path.longest);
  const int64_t first = start * dim;
  const int64_t last = (start + segment.end - segment.begin) * dim;
  for (auto* buffer : {&path.key_gradients, &path.value_gradients}) {
    std::fill(buffer->begin() + first, buffer->begin() + last, 0.0f);
  }
}

// Takes the gradients of a segment whose subtree is done.
void leave(const HeadTask& task, const TreeSegment& segment, int64_t start,
           const PathBuffers& path) {
  const int64_t dim = path.head_dim;
  const size_t bytes = static_cast<size_t>((segment.end - segment.begin) * dim) * sizeof(float);
  std::memcpy(task.key_gradients + segment.begin * dim, path.key_gradients.data() + start * dim,
              bytes);
  std::memcpy(task.value_gradients + segment.begin * dim, path.value_gradients.data() + start * dim,
              bytes);
}

// Rows [row, row + count) of a segment: `past` rows of their path come before the first of them.
void run_queries(const HeadTask& task, int64_t row, int64_t count, int64_t past,
                 PathBuffers& path) {
  const TreeAttentionShape& shape = *task.shape;
  const int64_t dim = shape.head_dim;
  const int64_t keys = past + count;  // the last row's view
  const int64_t out_stride = shape.num_heads * dim;
  const float* queries = task.queries + row * task.row_stride;
  const float* gradient = task.gradient + row * out_stride;

  GemmShape scores;  // [count, keys] = queries [count, D] * keys^T
  scores.m = count;
  scores.n = keys;
  scores.k = dim;
  scores.a_row_stride = task.row_stride;
  scores.ldb = path.longest;
  scores.ldc = path.longest;
  gemm_serial(scores, queries, path.keys_transposed.data(), path.p.data());
  scores.a_row_stride = out_stride;
  gemm_serial(scores, gradient, path.values_transposed.data(), path.dp.data());
  for (int64_t i = 0; i < count; ++i) {
    float* p = path.p.data() + i * path.longest;
    float* dp = path.dp.data() + i * path.longest;
    const int64_t visible = past + i + 1;
    const int64_t first = shape.window > 0 ? std::max<int64_t>(0, visible - shape.window) : 0;
    if (task.alibi_slope != 0.0f) {
      const float slope = task.alibi_slope / shape.scale;
      for (int64_t j = first; j < visible; ++j) p[j] += slope * static_cast<float>(j - past - i);
    }
    if (shape.relative_bias.table != nullptr) {
      add_relative_bias(shape.relative_bias, task.head, 1.0f / shape.scale, first - past - i,
                        visible - first, p + first);
    }
    softmax(p + first, visible - first, shape.scale);
    softmax_backward(p + first, dp + first, visible - first, shape.scale, dp + first);
    for (float* values : {p, dp}) {
      std::fill(values, values + first, 0.0f);
      std::fill(values + visible, values + keys, 0.0f);
    }
  }

  GemmShape to_keys;  // [keys, D] += p^T [keys, count] * rows [count, D]
  to_keys.m = keys;
  to_keys.n = dim;
  to_keys.k = count;
  to_keys.a_row_stride = 1;
  to_keys.a_column_stride = path.longest;
  to_keys.ldc = dim;
  to_keys.accumulate = true;
  to_keys.ldb = out_stride;
  gemm_serial(to_keys, path.p.data(), gradient, path.value_gradients.data());
  to_keys.ldb = task.row_stride;
  gemm_serial(to_keys, path.dp.data(), queries, path.key_gradients.data());

  GemmShape to_queries;  // [count, D] = dp [count, keys] * keys [keys, D]
  to_queries.m = count;
  to_queries.n = dim;
  to_queries.k = keys;
  to_queries.a_row_stride = path.longest;
  to_queries.ldb = dim;
  to_queries.ldc = task.row_stride;
  gemm_serial(to_queries, path.dp.data(), path.keys.data(),
              task.query_gradients + row * task.row_stride);
}

// One head for walk_tree.
struct HeadWalk {
  static constexpr int64_t kQueryTile = kernels::kQueryTile;
  const HeadTask& task;
  PathBuffers& path;

  void enter(const TreeSegment& segment, int64_t start) {
    kernels::enter(task, segment, start, path);
  }
  void attend(int64_t row, int64_t count, int64_t past) {
    run_queries(task, row, count, past, path);
  }
  void leave(const TreeSegment& segment, int64_t start) {
    kernels::leave(task, segment, start, path);
  }
};

}  // namespace

void sum_head_parts(const TreeAttentionShape& shape, int64_t num_rows, const float* key_parts,
                    const float* value_parts, float* dqkv) {
  const int64_t dim = shape.head_dim;
  const int64_t q_width = shape.num_heads * dim;
  const int64_t kv_width = shape.num_kv_heads * dim;
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  parallel_for(num_rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = dqkv + row * (q_width + 2 * kv_width) + q_width;
      std::fill(target, target + 2 * kv_width, 0.0f);
      for (int64_t head = 0; head < shape.num_heads; ++head) {
        const int64_t source = (head * num_rows + row) * dim;
        float* key = target + head / group * dim;
        add_scaled(key_parts + source, 1.0f, dim, key);
        add_scaled(value_parts + source, 1.0f, dim, key + kv_width);
      }
    }
  });
}

void tree_attention(const TreeAttentionShape& shape, const std::vector<TreeSegment>& segments,
                    const float* qkv, float* out) {
  const Paths paths = find_paths(segments);
  const int64_t q_width = shape.num_heads * shape.head_dim;
  const int64_t kv_width = shape.num_kv_heads * shape.head_dim;
  const int64_t row_stride = q_width + 2 * kv_width;
  std::vector<float> keys(static_cast<size_t>(paths.longest * kv_width));
  std::vector<float> values(keys.size());
  AttentionShape one;
  one.num_heads = shape.num_heads;
  one.num_kv_heads = shape.num_kv_heads;
  one.head_dim = shape.head_dim;
  one.ldq = row_stride;
  one.ldk = kv_width;
  one.ldo = q_width;
  one.scale = shape.scale;
  one.window = shape.window;
  one.alibi_slopes = shape.alibi_slopes;
  one.relative_bias = shape.relative_bias;
  // In preorder the rows before `start` are the segment's ancestors already.
  for (size_t index = 0; index < segments.size(); ++index) {
    const TreeSegment& segment = segments[index];
    for (int64_t row = segment.begin; row < segment.end; ++row) {
      const int64_t at = (paths.start[index] + row - segment.begin) * kv_width;
      const float* key = qkv + row * row_stride + q_width;
      std::memcpy(keys.data() + at, key, static_cast<size_t>(kv_width) * sizeof(float));
      std::memcpy(values.data() + at, key + kv_width,
                  static_cast<size_t>(kv_width) * sizeof(float));
    }
    one.num_queries = segment.end - segment.begin;
    one.num_keys = paths.start[index] + one.num_queries;
    attention(one, qkv + segment.begin * row_stride, keys.data(), values.data(),
              out + segment.begin * q_width);
  }
}

void tree_attention_backward(const TreeAttentionShape& shape,
                             const std::vector<TreeSegment>& segments, const float* qkv,
                             const float* gradient, float* dqkv) {
  const Paths paths = find_paths(segments);
  const int64_t dim = shape.head_dim;
  const int64_t q_width = shape.num_heads * dim;
  const int64_t kv_width = shape.num_kv_heads * dim;
  const int64_t row_stride = q_width + 2 * kv_width;
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  // Parts of the query heads of one group, summed below in a fixed order.
  const int64_t part = paths.num_rows * dim;
  thread_local std::vector<float> key_memory;
  thread_local std::vector<float> value_memory;
  key_memory.resize(static_cast<size_t>(shape.num_heads * part));
  value_memory.resize(key_memory.size());
  float* key_parts = key_memory.data();
  float* value_parts = value_memory.data();
  const std::vector<size_t> roots = find_roots(segments);
  const auto num_trees = static_cast<int64_t>(roots.size()) - 1;
  parallel_for(shape.num_heads * num_trees, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t head = unit / num_trees;
      const auto tree = static_cast<size_t>(unit % num_trees);
      HeadTask task = {};
      task.shape = &shape;
      task.head = head;
      task.alibi_slope = shape.alibi_slopes == nullptr ? 0.0f : shape.alibi_slopes[head];
      task.row_stride = row_stride;
      task.queries = qkv + head * dim;
      task.keys = qkv + q_width + head / group * dim;
      task.values = task.keys + kv_width;
      task.gradient = gradient + head * dim;
      task.query_gradients = dqkv + head * dim;
      task.key_gradients = key_parts + head * part;
      task.value_gradients = value_parts + head * part;
      thread_local PathBuffers path;
      path.reserve(paths.longest, dim);
      HeadWalk walk{task, path};
      walk_tree(segments, paths, roots[tree], roots[tree + 1], walk);
    }
  });
  sum_head_parts(shape, paths.num_rows, key_parts, value_parts, dqkv);
}

}  // namespace quarry::kernels
