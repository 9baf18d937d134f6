// One to eight rows: every warp of a block takes every eighth chunk of one strip of weights, so
// that the weights are read once, 512 bytes at a time, straight into the operands.
#include <algorithm>
#include <type_traits>

#include "generator/kernels/matmul_cuda.h"

namespace quarry::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kInFlight = 2;  // chunks that a warp loads ahead

// Shared memory: x as halves [blocks of 32 k][m][32], the warps' sums, factors and codebook.
struct Shared {
  uint16_t* x;
  float* sums;      // [kWarps][kStripRows][kGemvRows]
  float* factors;   // [kGemvRows]
  float* largest;   // [kWarps]
  uint32_t* table;  // [16]
};
constexpr int64_t kFixedBytes = (kWarps * kStripRows * kGemvRows + kGemvRows + kWarps + 16) * 4;

__device__ inline Shared split_shared() {
  Shared s;
  s.sums = reinterpret_cast<float*>(shared_memory());
  s.factors = s.sums + kWarps * kStripRows * kGemvRows;
  s.largest = s.factors + kGemvRows;
  s.table = reinterpret_cast<uint32_t*>(s.largest + kWarps);
  s.x = reinterpret_cast<uint16_t*>(s.table + 16);
  return s;
}

int64_t shared_bytes(const DeviceMatrixView& w, int64_t m) {
  return kFixedBytes + w.chunks * kChunk * m * 2;
}

// Row `row` of x as halves in s.x.
__device__ inline void convert_row(const float* x, int64_t k, int chunks, int row, int m,
                                   const Shared& s) {
  const int tid = static_cast<int>(threadIdx.x);
  const int quads = static_cast<int>(k / 4);
  const float4* values = reinterpret_cast<const float4*>(x);
  float largest = 0.0f;
  for (int quad = tid; quad < quads; quad += kThreads) {
    const float4 v = values[quad];
    largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
  }
  largest = max_lanes<kWarp>(largest);
  __syncthreads();  // the last row's s.largest has been read
  if (tid % kWarp == 0) s.largest[tid / kWarp] = largest;
  __syncthreads();
  for (int i = 0; i < kWarps; ++i) largest = fmaxf(largest, s.largest[i]);
  const float factor = input_factor(largest);
  if (tid == 0) s.factors[row] = factor;
  for (int quad = tid; quad < chunks * (kChunk / 4); quad += kThreads) {
    const float4 v = quad < quads ? values[quad] : float4{0.0f, 0.0f, 0.0f, 0.0f};
    uint16_t* out = s.x + (quad / 8 * m + row) * 32 + input_slot(quad);
    *reinterpret_cast<uint2*>(out) =
        uint2{pack_halves(v.x * factor, v.y * factor), pack_halves(v.z * factor, v.w * factor)};
  }
}

template <Layout kLayout, int kSlots>
__global__ void __launch_bounds__(kThreads)
    gemv_kernel(DeviceMatrixView w, const float* x, int m, int64_t ldx, float* y, int64_t ldy) {
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp;
  const int warp = tid / kWarp;
  const int strip = static_cast<int>(blockIdx.x);
  const Shared s = split_shared();
  // Weights are on their way while x is converted.
  Chunk<kLayout, kSlots> chunk[kInFlight];
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    load_chunk(w, strip, warp + i * kWarps, lane, chunk[i]);
  }
  if (tid < 16) s.table[tid] = w.codebook[tid];
  for (int row = 0; row < m; ++row) convert_row(x + row * ldx, w.k, w.chunks, row, m, s);
  __syncthreads();

  float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int first = warp; first < w.chunks; first += kInFlight * kWarps) {
    Chunk<kLayout, kSlots> next[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      load_chunk(w, strip, first + (kInFlight + i) * kWarps, lane, next[i]);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int index = first + i * kWarps;
      if (index >= w.chunks) break;
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        uint4 b = {0, 0, 0, 0};
        if (lane / 4 < m) {
          b = *reinterpret_cast<const uint4*>(s.x + ((2 * index + p) * m + lane / 4) * 32 +
                                              8 * (lane % 4));
        }
        uint32_t a[4];
        decode_step(chunk[i], 2 * p, w.center, s.table, a);
        multiply_tiles(total, a, b.x, b.y);
        decode_step(chunk[i], 2 * p + 1, w.center, s.table, a);
        multiply_tiles(total, a, b.z, b.w);
      }
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) chunk[i] = next[i];
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    s.sums[(warp * kStripRows + row) * kGemvRows + 2 * (lane % 4) + i % 2] = total[i];
  }
  __syncthreads();
  const int row = tid % kStripRows;
  const int token = tid / kStripRows;
  const int64_t column = static_cast<int64_t>(strip) * kStripRows + row;
  if (token >= m || column >= w.n) return;
  float sum = 0.0f;
  for (int i = 0; i < kWarps; ++i) sum += s.sums[(i * kStripRows + row) * kGemvRows + token];
  y[token * ldy + column] = sum / s.factors[token] * w.row_scales[column];
}

}  // namespace

void gemv(const DeviceMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
          CUstream_st* stream) {
  const DeviceMatrixView& w = weight.view();
  QUARRY_CHECK(m >= 0 && m <= kGemvRows && ldx % 4 == 0 && ldx >= w.k && ldy >= w.n,
               ErrorCode::kInvalidArgument, "gemv: ", m, " rows, ldx ", ldx, ", ldy ", ldy,
               "; want at most ", kGemvRows, " rows, ldx a multiple of 4 and at least ", w.k,
               ", ldy at least ", w.n);
  // As many rows at a time as fit shared memory.
  const int64_t shared = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int64_t at_once =
      std::max<int64_t>(1, (shared - kFixedBytes) / (2 * int64_t{w.chunks} * kChunk));
  for (int64_t row = 0; row < m; row += at_once) {
    const int64_t rows = std::min(at_once, m - row);
    with_layout(w, [&](auto layout, auto slots) {
      launch("gemv", gemv_kernel<layout(), slots()>, dim3(static_cast<unsigned>(w.strips)),
             kThreads, shared_bytes(w, rows), stream, w, x + row * ldx, static_cast<int>(rows), ldx,
             y + row * ldy, ldy);
    });
  }
}

}  // namespace quarry::kernels::cuda
