#pragma once

#include <stdint.h>

#include "generator/kernels/gemm.h"

// The versions that gemm.cpp chooses from.
#define QUARRY_DECLARE_GEMM \
  void gemm_serial(const GemmShape& shape, const float* a, const float* b, float* c);

namespace quarry::kernels {
namespace portable {
QUARRY_DECLARE_GEMM
}
namespace avx2 {
QUARRY_DECLARE_GEMM
}
namespace avx512 {
QUARRY_DECLARE_GEMM
}
}  // namespace quarry::kernels
#undef QUARRY_DECLARE_GEMM
