#include <stdint.h>

#include "generator/kernels/attention_body.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const float* k, const float* v, float* out, float* scratch) {
  attention_task_body<VecAvx2, 4, 2>(shape, task, q, k, v, out, scratch);
}
void attention_task(const AttentionShape& shape, const AttentionTask& task, const float* q,
                    const uint16_t* k, const uint16_t* v, float* out, float* scratch) {
  attention_task_body<VecAvx2, 4, 2>(shape, task, q, k, v, out, scratch);
}

}  // namespace quarry::kernels::avx2
