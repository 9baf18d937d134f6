#include <stdint.h>

#include "generator/kernels/attention_body.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<float>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecAvx2, 4, 2, KeyValuePages<float>>>(shape, task, q, kv, out,
                                                                          scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValuePages<uint16_t>& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecAvx2, 4, 2, KeyValuePages<uint16_t>>>(shape, task, q, kv,
                                                                             out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const KeyValueTiles& kv, float* out, float* scratch) {
  attention_task_body<FloatProducts<VecAvx2, 4, 2, KeyValueTiles>>(shape, task, q, kv, out,
                                                                   scratch);
}

}  // namespace quarry::kernels::avx2
