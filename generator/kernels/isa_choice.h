#pragma once

#include "data/core/cpu_isa.h"

namespace quarry::kernels {

// The version of a kernel that this CPU runs.
template <typename Function>
Function choose(Function for_portable, Function for_avx2, Function for_avx512) {
  switch (cpu_isa()) {
    case CpuIsa::kAvx512:
      return for_avx512;
    case CpuIsa::kAvx2:
      return for_avx2;
    case CpuIsa::kPortable:
      break;
  }
  return for_portable;
}

}  // namespace quarry::kernels
