#include <stdint.h>

#include "generator/kernels/attention_body.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<float>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecAvx2, 4, 2, float>>(shape, task, q, kv, out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<uint16_t>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecAvx2, 4, 2, uint16_t>>(shape, task, q, kv, out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<BFloat16>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecAvx2, 4, 2, BFloat16>>(shape, task, q, kv, out, scratch);
}

}  // namespace quarry::kernels::avx2
