#include "generator/kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/attention_body.h"
#include "generator/kernels/isa_choice.h"
#include "generator/kernels/vec_portable.h"

namespace quarry::kernels::portable {

void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<float>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecPortable, 1, 1, KeyValuePages<float>>>(shape, task, q, kv,
                                                                              out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<uint16_t>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecPortable, 1, 1, KeyValuePages<uint16_t>>>(shape, task, q, kv,
                                                                                 out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValueTiles& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecPortable, 1, 1, KeyValueTiles>>(shape, task, q, kv, out,
                                                                       scratch);
}

}  // namespace quarry::kernels::portable

namespace quarry::kernels {
namespace {

// Rows (query, head) of one task: enough to reuse a tile of keys, few enough to stay in cache.
constexpr int64_t kTaskRows = 96;
// Multiply-adds below which a call stays on one thread.
constexpr int64_t kSerialMultiplies = 128 * 1024;

template <typename Cache>
using TaskFunction = void (*)(const AttentionShape&, const AttentionTask&, const float*,
                              const Cache&, float*, float*);

template <typename Cache>
TaskFunction<Cache> task_function() {
  return choose<TaskFunction<Cache>>(portable::attention_task, avx2::attention_task,
                                     avx512::attention_task);
}

// How a call is cut into tasks: tiles of queries x kv heads x parts of their heads.
struct Cut {
  int64_t group;    // heads of a kv head
  int64_t queries;  // of a tile
  int64_t query_tiles;
  int64_t parts;
  int64_t task_rows() const { return queries * ((group + parts - 1) / parts); }
  int64_t num_tasks(const AttentionShape& s) const { return query_tiles * s.num_kv_heads * parts; }

  // Interleaved over the pieces, since later query tiles of a causal call see more keys.
  AttentionTask task(const AttentionShape& s, int64_t i) const {
    const int64_t tile = i % query_tiles;
    const int64_t part = i / query_tiles % parts;
    AttentionTask task = {};
    task.kv_head = i / (query_tiles * parts);
    task.head_begin = task.kv_head * group + group * part / parts;
    task.head_end = task.kv_head * group + group * (part + 1) / parts;
    task.query_begin = tile * queries;
    task.query_end = std::min(s.num_queries, task.query_begin + queries);
    return task;
  }
};

float* task_scratch(int64_t rows, int64_t head_dim) {
  thread_local AlignedBuffer scratch;
  scratch.reserve(attention_scratch_floats(rows, head_dim) * 4);
  return reinterpret_cast<float*>(scratch.data());
}

// Few queries over many keys: threads share out the segments of the keys as well.
template <typename Cache>
void run_by_segment(const AttentionShape& s, const Cut& cut, const KeyRange& segments,
                    const float* q, const Cache& kv, float* out) {
  const int64_t rows = cut.task_rows();
  const int64_t padded = padded_head_dim(s.head_dim);
  const int64_t part_floats = rows * (padded + 2);
  const int64_t num_segments = segments.end - segments.begin;
  thread_local AlignedBuffer buffer;
  auto* sums =
      reinterpret_cast<float*>(buffer.reserve(cut.num_tasks(s) * num_segments * part_floats * 4));
  const auto part_of = [=](int64_t task, int64_t segment) {
    float* begin = sums + (task * num_segments + segment) * part_floats;
    return SoftmaxRows{begin, begin + rows * padded, begin + rows * (padded + 1)};
  };
  const auto run_task = task_function<Cache>();
  parallel_for(cut.num_tasks(s) * num_segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      AttentionTask task = cut.task(s, i / num_segments);
      const SoftmaxRows part = part_of(i / num_segments, i % num_segments);
      task.segment = segments.begin + i % num_segments;
      task.part = &part;
      run_task(s, task, q, kv, out, task_scratch(rows, s.head_dim));
    }
  });
  for (int64_t i = 0; i < cut.num_tasks(s); ++i) {
    const AttentionTask task = cut.task(s, i);
    const SoftmaxRows total = part_of(i, 0);
    for (int64_t segment = 1; segment < num_segments; ++segment) {
      fold_rows(part_of(i, segment), rows_of(task), padded, total);
    }
    write_rows<VecPortable>(s, task, total, padded, out);
  }
}

template <typename Cache>
void run_attention(const AttentionShape& shape, const float* q, const Cache& kv, float* out) {
  const AttentionShape& s = shape;
  QUARRY_CHECK(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0 &&
                   s.num_keys >= (s.causal ? s.num_queries : std::min<int64_t>(1, s.num_queries)) &&
                   s.head_dim >= 1 && s.head_dim <= 256,
               ErrorCode::kInvalidArgument, "attention: ", s.num_heads, " heads, ", s.num_kv_heads,
               " kv heads, head_dim ", s.head_dim, ", ", s.num_queries, " queries, ", s.num_keys,
               " keys; want heads a multiple of kv heads, head_dim 1..256, keys >= queries, or at "
               "least one where nothing is masked");
  if (s.num_queries == 0) return;
  Cut cut = {};
  cut.group = s.num_heads / s.num_kv_heads;
  const int64_t work = s.num_queries * s.num_keys * s.num_heads * s.head_dim;
  const int threads = work < kSerialMultiplies ? 1 : num_threads();
  cut.queries = std::min(s.num_queries, std::max<int64_t>(1, kTaskRows / cut.group));
  cut.query_tiles = (s.num_queries + cut.queries - 1) / cut.queries;
  cut.parts = 1;
  const KeyRange segments = segments_of(keys_seen(s, 0, s.num_queries));
  if (threads > 1 && cut.query_tiles == 1 && segments.end - segments.begin > 1) {
    return run_by_segment(s, cut, segments, q, kv, out);
  }
  // Heads of one group share the key tile; they are split only to give every thread work.
  while (cut.parts < cut.group && cut.query_tiles * s.num_kv_heads * cut.parts < threads) {
    ++cut.parts;
  }
  const int64_t tasks = cut.num_tasks(s);
  const auto run_task = task_function<Cache>();
  parallel_for(tasks, threads == 1 ? tasks : 1, [&](int64_t begin, int64_t end) {
    float* scratch = task_scratch(cut.task_rows(), s.head_dim);
    for (int64_t i = begin; i < end; ++i) run_task(s, cut.task(s, i), q, kv, out, scratch);
  });
}

template <typename T>
void run_pages(const AttentionShape& shape, const float* q, const KeyValuePages<T>& kv,
               float* out) {
  QUARRY_DCHECK(kv.page_keys % kKeyTile == 0 || kv.page_keys >= shape.num_keys);
  run_attention(shape, q, kv, out);
}

template <typename T>
void run_rows(const AttentionShape& shape, const float* q, const T* k, const T* v, float* out) {
  KeyValuePages<T> kv;
  kv.k_pages = &k;
  kv.v_pages = &v;
  kv.page_keys = shape.num_keys;
  run_attention(shape, q, kv, out);
}

}  // namespace

void fold_rows(const SoftmaxRows& more, int64_t rows, int64_t padded, const SoftmaxRows& total) {
  for (int64_t row = 0; row < rows; ++row) {
    if (more.maximum[row] == -INFINITY) continue;
    const float maximum = std::max(total.maximum[row], more.maximum[row]);
    const float keep = std::exp(total.maximum[row] - maximum);
    const float take = std::exp(more.maximum[row] - maximum);
    float* out = total.out + row * padded;
    const float* added = more.out + row * padded;
    for (int64_t d = 0; d < padded; ++d) out[d] = out[d] * keep + added[d] * take;
    total.sum[row] = total.sum[row] * keep + more.sum[row] * take;
    total.maximum[row] = maximum;
  }
}

void attention(const AttentionShape& shape, const float* q, const KeyValuePages<float>& kv,
               float* out) {
  run_pages(shape, q, kv, out);
}

void attention(const AttentionShape& shape, const float* q, const KeyValuePages<uint16_t>& kv,
               float* out) {
  run_pages(shape, q, kv, out);
}

void attention(const AttentionShape& shape, const float* q, const KeyValueTiles& kv, float* out) {
  run_attention(shape, q, kv, out);
}

void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out) {
  run_rows(shape, q, k, v, out);
}

void attention(const AttentionShape& shape, const float* q, const uint16_t* k, const uint16_t* v,
               float* out) {
  run_rows(shape, q, k, v, out);
}

}  // namespace quarry::kernels
