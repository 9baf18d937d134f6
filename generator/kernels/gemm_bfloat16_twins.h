#pragma once

#include <stdint.h>

#include "generator/kernels/gemm_bfloat16.h"

// The versions that gemm_bfloat16.cpp chooses from; AVX2 has no products of bfloat16.
#define QUARRY_DECLARE_GEMM_BFLOAT16                                                              \
  void gemm_bfloat16_serial(const GemmShape& shape, const BFloat16Pair* a, const BFloat16Pair* b, \
                            float* c);                                                            \
  void gemm_bfloat16_quads_serial(const GemmShape& shape, const BFloat16Quad* a,                  \
                                  const BFloat16Pair* b, float* c);

namespace quarry::kernels {
namespace portable {
QUARRY_DECLARE_GEMM_BFLOAT16
}
namespace avx512 {
QUARRY_DECLARE_GEMM_BFLOAT16
}
}  // namespace quarry::kernels
#undef QUARRY_DECLARE_GEMM_BFLOAT16
