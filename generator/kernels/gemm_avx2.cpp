#include <stdint.h>

#include "generator/kernels/gemm_body.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

void gemm_serial(const GemmShape& shape, const float* a, const float* b, float* c) {
  gemm_body<VecAvx2, VecAvx2, 6, 2>(shape, a, b, c);
}

}  // namespace quarry::kernels::avx2
