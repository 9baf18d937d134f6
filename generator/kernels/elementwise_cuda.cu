#include <cuda_runtime.h>

#include "generator/kernels/cuda_check.h"
#include "generator/kernels/cuda_twins.h"

namespace quarry::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

// Sum over the block, known to every thread.
__device__ float block_sum(float value) {
  __shared__ float partial[kThreads / kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < kThreads / kWarp; ++i) total += partial[i];
  return total;
}

// One block per row.
__global__ void rms_norm_kernel(const float* x, const float* weight, float epsilon, int64_t width,
                                float* out) {
  const float* row = x + blockIdx.x * width;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) squares += row[i] * row[i];
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[blockIdx.x * width + i] = row[i] * scale * weight[i];
  }
}

}  // namespace

void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out, CUstream_st* stream) {
  if (rows == 0) return;
  rms_norm_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, weight, epsilon, width,
                                                                        out);
  cuda_check(cudaGetLastError(), "rms_norm launch");
}

}  // namespace quarry::kernels::cuda
