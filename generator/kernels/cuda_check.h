#pragma once

#include <cuda_runtime.h>

#include "data/core/error.h"

namespace quarry::kernels::cuda {

// Turns a CUDA status into Error(kInternal): what failed, and CUDA's own words.
inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) cudaGetLastError();  // the next launch need not fail for it
  QUARRY_CHECK(status == cudaSuccess, ErrorCode::kInternal, what, ": CUDA says ",
               cudaGetErrorName(status), " (", cudaGetErrorString(status), ")");
}

}  // namespace quarry::kernels::cuda
