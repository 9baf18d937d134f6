#include "generator/kernels/attention.h"

#include <algorithm>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/attention_body.h"
#include "generator/kernels/vec_portable.h"

namespace quarry::kernels::portable {

void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<float>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecPortable, 1, 1, float>>(shape, task, q, kv, out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<uint16_t>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecPortable, 1, 1, uint16_t>>(shape, task, q, kv, out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<BFloat16>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecPortable, 1, 1, BFloat16>>(shape, task, q, kv, out, scratch);
}

}  // namespace quarry::kernels::portable

namespace quarry::kernels {
namespace {

// Rows (query, head) of one task: enough to reuse a tile of keys, few enough to stay in cache.
constexpr int64_t kTaskRows = 96;
// Multiply-adds below which a call stays on one thread.
constexpr int64_t kSerialMultiplies = 128 * 1024;

template <typename T>
using TaskFunction = void (*)(const AttentionShape&, const AttentionTask&, const float*,
                              const KeyValuePages<T>&, float*, float*);

template <typename T>
TaskFunction<T> task_function() {
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return avx512::attention_task;
    case CpuIsa::kAvx2:
      return avx2::attention_task;
    case CpuIsa::kPortable:
      break;
  }
  return portable::attention_task;
}

template <typename T>
void run_attention(const AttentionShape& shape, const float* q, const KeyValuePages<T>& kv,
                   float* out) {
  const AttentionShape& s = shape;
  QUARRY_CHECK(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0 &&
                   s.num_keys >= (s.causal ? s.num_queries : std::min<int64_t>(1, s.num_queries)) &&
                   s.head_dim >= 1 && s.head_dim <= 256,
               ErrorCode::kInvalidArgument, "attention: ", s.num_heads, " heads, ", s.num_kv_heads,
               " kv heads, head_dim ", s.head_dim, ", ", s.num_queries, " queries, ", s.num_keys,
               " keys; want heads a multiple of kv heads, head_dim 1..256, keys >= queries, or at "
               "least one where nothing is masked");
  QUARRY_DCHECK(kv.page_keys % kKeyTile == 0 || kv.page_keys >= s.num_keys);
  if (s.num_queries == 0) return;
  const int64_t group = s.num_heads / s.num_kv_heads;
  const int64_t work = s.num_queries * s.num_keys * s.num_heads * s.head_dim;
  const int threads = work < kSerialMultiplies ? 1 : num_threads();
  const int64_t queries = std::min(s.num_queries, std::max<int64_t>(1, kTaskRows / group));
  const int64_t query_tiles = (s.num_queries + queries - 1) / queries;
  // Heads of one group share the key tile; they are split only to give every thread work.
  int64_t parts = 1;
  while (parts < group && query_tiles * s.num_kv_heads * parts < threads) ++parts;
  const int64_t tasks = query_tiles * s.num_kv_heads * parts;
  const auto run_task = task_function<T>();
  parallel_for(tasks, threads == 1 ? tasks : 1, [&](int64_t begin, int64_t end) {
    thread_local AlignedBuffer scratch;
    const int64_t rows = queries * ((group + parts - 1) / parts);
    scratch.reserve(attention_scratch_floats(rows, s.head_dim) * 4);
    for (int64_t i = begin; i < end; ++i) {
      // Interleaved over the pieces, since later query tiles of a causal call see more keys.
      const int64_t tile = i % query_tiles;
      const int64_t part = i / query_tiles % parts;
      AttentionTask task = {};
      task.kv_head = i / (query_tiles * parts);
      task.head_begin = task.kv_head * group + group * part / parts;
      task.head_end = task.kv_head * group + group * (part + 1) / parts;
      task.query_begin = tile * queries;
      task.query_end = std::min(s.num_queries, task.query_begin + queries);
      run_task(s, task, q, kv, out, reinterpret_cast<float*>(scratch.data()));
    }
  });
}

template <typename T>
void run_attention(const AttentionShape& shape, const float* q, const T* k, const T* v,
                   float* out) {
  KeyValuePages<T> kv;
  kv.k_pages = &k;
  kv.v_pages = &v;
  kv.page_keys = shape.num_keys;
  run_attention(shape, q, kv, out);
}

}  // namespace

void attention(const AttentionShape& shape, const float* q, const KeyValuePages<float>& kv,
               float* out) {
  run_attention(shape, q, kv, out);
}

void attention(const AttentionShape& shape, const float* q, const KeyValuePages<uint16_t>& kv,
               float* out) {
  run_attention(shape, q, kv, out);
}

void attention(const AttentionShape& shape, const float* q, const KeyValuePages<BFloat16>& kv,
               float* out) {
  run_attention(shape, q, kv, out);
}

void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               float* out) {
  run_attention(shape, q, k, v, out);
}

void attention(const AttentionShape& shape, const float* q, const uint16_t* k, const uint16_t* v,
               float* out) {
  run_attention(shape, q, k, v, out);
}

void attention(const AttentionShape& shape, const float* q, const BFloat16* k, const BFloat16* v,
               float* out) {
  run_attention(shape, q, k, v, out);
}

}  // namespace quarry::kernels
