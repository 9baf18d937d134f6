#include <stdint.h>

#include "generator/kernels/gemm_body.h"
#include "generator/kernels/vec_avx512.h"

namespace quarry::kernels::avx512 {

void gemm_serial(const GemmShape& shape, const float* a, const float* b, float* c) {
  gemm_body<VecAvx512, VecAvx512, 6, 4>(shape, a, b, c);
}

}  // namespace quarry::kernels::avx512
