#include <algorithm>

#include "generator/kernels/cuda_device.h"
#include "generator/kernels/cuda_twins.h"

namespace quarry::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSumBytes = kThreads / kWarp * 4;

// Sum over the block, known to every thread. May be called again at once.
__device__ inline float block_sum(float value) {
  float* partial = reinterpret_cast<float*>(shared_memory());
  value = sum_lanes<kWarp>(value);
  __syncthreads();  // the last call's sums have been read
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
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[blockIdx.x * width + i] = row[i] * scale * weight[i];
  }
}

// One block per row. Two passes: the variance about the mean loses nothing to cancellation.
__global__ void layer_norm_kernel(const float* x, const float* weight, const float* bias,
                                  float epsilon, int64_t width, float* out) {
  const float* row = x + blockIdx.x * width;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) sum += row[i];
  const float mean = block_sum(sum) / static_cast<float>(width);
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    squares += (row[i] - mean) * (row[i] - mean);
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float normed = (row[i] - mean) * scale * weight[i];
    out[blockIdx.x * width + i] = bias == nullptr ? normed : normed + bias[i];
  }
}

__global__ void silu_mul_kernel(const float* gate, const float* up, int64_t count, float* out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
  }
}

struct RopeArguments {
  float* x;
  const int32_t* positions;
  int num_heads;
  int head_dim;
  int64_t ldx;
  const float* cosine;
  const float* sine;
  int interleaved;
};

// One block per token, one pair of elements at a time.
__global__ void rope_kernel(RopeArguments r) {
  const int half = r.head_dim / 2;
  const int64_t angles = static_cast<int64_t>(r.positions[blockIdx.x]) * half;
  for (int i = static_cast<int>(threadIdx.x); i < r.num_heads * half; i += kThreads) {
    const int d = i % half;
    float* head = r.x + blockIdx.x * r.ldx + i / half * r.head_dim;
    float* first = head + (r.interleaved != 0 ? 2 * d : d);
    float* second = r.interleaved != 0 ? first + 1 : first + half;
    const float a = *first;
    const float b = *second;
    const float c = r.cosine[angles + d];
    const float s = r.sine[angles + d];
    *first = a * c - b * s;
    *second = a * s + b * c;
  }
}

dim3 grid_of(const char* what, int64_t blocks) {
  constexpr int64_t kMost = 2147483647;
  QUARRY_CHECK(blocks >= 0 && blocks <= kMost, ErrorCode::kInvalidArgument, what, ": ", blocks,
               " rows, want at most ", kMost);
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace

void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out, CUstream_st* stream) {
  if (rows == 0) return;
  launch("rms_norm", rms_norm_kernel, grid_of("rms_norm", rows), kThreads, kSumBytes, stream, x,
         weight, epsilon, width, out);
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows,
                int64_t width, float* out, CUstream_st* stream) {
  if (rows == 0) return;
  launch("layer_norm", layer_norm_kernel, grid_of("layer_norm", rows), kThreads, kSumBytes, stream,
         x, weight, bias, epsilon, width, out);
}

void silu_mul(const float* gate, const float* up, int64_t count, float* out, CUstream_st* stream) {
  if (count == 0) return;
  constexpr int64_t kMostBlocks = 4096;
  launch("silu_mul", silu_mul_kernel,
         dim3(static_cast<unsigned>(std::min((count + kThreads - 1) / kThreads, kMostBlocks))),
         kThreads, 0, stream, gate, up, count, out);
}

void rope(float* x, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
          int64_t head_dim, int64_t ldx, const float* cos_table, const float* sin_table,
          RopePairing pairing, CUstream_st* stream) {
  if (num_tokens == 0) return;
  RopeArguments r = {};
  r.x = x;
  r.positions = positions;
  r.num_heads = static_cast<int>(num_heads);
  r.head_dim = static_cast<int>(head_dim);
  r.ldx = ldx;
  r.cosine = cos_table;
  r.sine = sin_table;
  r.interleaved = pairing == RopePairing::kInterleaved ? 1 : 0;
  launch("rope", rope_kernel, grid_of("rope", num_tokens), kThreads, 0, stream, r);
}

}  // namespace quarry::kernels::cuda
