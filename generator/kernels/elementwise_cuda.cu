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

// One warp per head. Grid: heads, rows.
__global__ void head_norm_kernel(float* x, const float* weight, float epsilon, int head_dim,
                                 int64_t ldx) {
  float* head = x + blockIdx.y * ldx + static_cast<int64_t>(blockIdx.x) * head_dim;
  float squares = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < head_dim; i += kWarp)
    squares += head[i] * head[i];
  const float mean = sum_lanes<kWarp>(squares) / static_cast<float>(head_dim);
  const float scale = 1.0f / sqrtf(mean + epsilon);
  for (int i = static_cast<int>(threadIdx.x); i < head_dim; i += kWarp) {
    head[i] = head[i] * scale * weight[i];
  }
}

template <Gate kGate>
__device__ inline float gate_of(float x) {
  if (kGate == Gate::kSilu) return x / (1.0f + expf(-x));
  constexpr float kFactor = 0.7978845608f;  // sqrt(2 / pi)
  return 0.5f * x * (1.0f + tanhf(kFactor * (x + 0.044715f * x * x * x)));
}

// Runs body(i) for i = 0 .. count - 1, shared out over the grid.
template <typename Body>
__device__ inline void for_each(int64_t count, const Body& body) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    body(i);
  }
}

template <Gate kGate>
__global__ void gated_product_kernel(const float* gate_up, int64_t rows, int64_t width,
                                     float* out) {
  for_each(rows * width, [&](int64_t i) {
    const float* gate = gate_up + i / width * 2 * width + i % width;
    out[i] = gate_of<kGate>(gate[0]) * gate[width];
  });
}

__global__ void gelu_kernel(float* x, int64_t count) {
  constexpr float kHalfRoot = 0.7071067812f;
  for_each(count, [&](int64_t i) { x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * kHalfRoot)); });
}

__global__ void add_kernel(const float* x, int64_t count, float* y) {
  for_each(count, [&](int64_t i) { y[i] += x[i]; });
}

__global__ void add_bias_kernel(const float* bias, int64_t rows, int64_t width, float* y) {
  for_each(rows * width, [&](int64_t i) { y[i] += bias[i % width]; });
}

__global__ void gather_rows_kernel(const float* x, const int32_t* indices, int64_t count,
                                   int64_t width, float* out) {
  for_each(count * width, [&](int64_t i) { out[i] = x[indices[i / width] * width + i % width]; });
}

struct KeyValueArguments {
  const float* keys;
  const float* values;
  int64_t ld;
  int64_t width;
  uint16_t* const* slots;
  int64_t k_offset;
  int64_t v_offset;
};

// One block per row; pairs of halves.
__global__ void store_key_values_kernel(KeyValueArguments a) {
  const float* keys = a.keys + blockIdx.x * a.ld;
  const float* values = a.values + blockIdx.x * a.ld;
  uint16_t* slot = a.slots[blockIdx.x];
  for (int64_t i = 2 * static_cast<int64_t>(threadIdx.x); i < a.width; i += 2 * kThreads) {
    *reinterpret_cast<uint32_t*>(slot + a.k_offset + i) = pack_halves(keys[i], keys[i + 1]);
    *reinterpret_cast<uint32_t*>(slot + a.v_offset + i) = pack_halves(values[i], values[i + 1]);
  }
}

struct RopeArguments {
  float* x;
  const int32_t* positions;
  int num_heads;
  int head_dim;
  int rotary_dim;
  int64_t ldx;
  const float* cosine;
  const float* sine;
  int interleaved;
};

// One block per token, one pair of elements at a time.
__global__ void rope_kernel(RopeArguments r) {
  const int half = r.rotary_dim / 2;
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

// For for_each().
dim3 grid_over(int64_t count) {
  constexpr int64_t kMostBlocks = 4096;
  return dim3(static_cast<unsigned>(std::min((count + kThreads - 1) / kThreads, kMostBlocks)));
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

void head_norm(float* x, const float* weight, float epsilon, int64_t rows, int64_t num_heads,
               int64_t head_dim, int64_t ldx, CUstream_st* stream) {
  if (rows == 0 || num_heads == 0) return;
  constexpr int64_t kMostRows = 65535;  // of a grid
  for (int64_t first = 0; first < rows; first += kMostRows) {
    const int64_t count = std::min(rows - first, kMostRows);
    launch("head_norm", head_norm_kernel,
           dim3(static_cast<unsigned>(num_heads), static_cast<unsigned>(count)), kWarp, 0, stream,
           x + first * ldx, weight, epsilon, head_dim, ldx);
  }
}

void gated_product(Gate gate, const float* gate_up, int64_t rows, int64_t width, float* out,
                   CUstream_st* stream) {
  if (rows * width == 0) return;
  const auto kernel = gate == Gate::kSilu ? gated_product_kernel<Gate::kSilu>
                                          : gated_product_kernel<Gate::kGeluTanh>;
  launch("gated_product", kernel, grid_over(rows * width), kThreads, 0, stream, gate_up, rows,
         width, out);
}

void gelu(float* x, int64_t count, CUstream_st* stream) {
  if (count == 0) return;
  launch("gelu", gelu_kernel, grid_over(count), kThreads, 0, stream, x, count);
}

void add(const float* x, int64_t count, float* y, CUstream_st* stream) {
  if (count == 0) return;
  launch("add", add_kernel, grid_over(count), kThreads, 0, stream, x, count, y);
}

void add_bias(const float* bias, int64_t rows, int64_t width, float* y, CUstream_st* stream) {
  if (rows * width == 0) return;
  launch("add_bias", add_bias_kernel, grid_over(rows * width), kThreads, 0, stream, bias, rows,
         width, y);
}

void gather_rows(const float* x, const int32_t* indices, int64_t count, int64_t width, float* out,
                 CUstream_st* stream) {
  if (count * width == 0) return;
  launch("gather_rows", gather_rows_kernel, grid_over(count * width), kThreads, 0, stream, x,
         indices, count, width, out);
}

void store_key_values(const float* keys, const float* values, int64_t ld, int64_t rows,
                      int64_t width, uint16_t* const* slots, int64_t k_offset, int64_t v_offset,
                      CUstream_st* stream) {
  QUARRY_CHECK(width % 2 == 0, ErrorCode::kInvalidArgument, "store_key_values: ", width,
               " values a row, want an even number");
  if (rows == 0) return;
  const KeyValueArguments a = {keys, values, ld, width, slots, k_offset, v_offset};
  launch("store_key_values", store_key_values_kernel, grid_of("store_key_values", rows), kThreads,
         0, stream, a);
}

void rope(float* x, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
          int64_t head_dim, int64_t rotary_dim, int64_t ldx, const float* cos_table,
          const float* sin_table, RopePairing pairing, CUstream_st* stream) {
  if (num_tokens == 0) return;
  RopeArguments r = {};
  r.x = x;
  r.positions = positions;
  r.num_heads = static_cast<int>(num_heads);
  r.head_dim = static_cast<int>(head_dim);
  r.rotary_dim = static_cast<int>(rotary_dim);
  r.ldx = ldx;
  r.cosine = cos_table;
  r.sine = sin_table;
  r.interleaved = pairing == RopePairing::kInterleaved ? 1 : 0;
  launch("rope", rope_kernel, grid_of("rope", num_tokens), kThreads, 0, stream, r);
}

}  // namespace quarry::kernels::cuda
