// Many rows on tensor cores. x is prepared once, as halves in the order of the right operand; a
// block's tile of it passes through shared memory in the background, while each warp decodes the
// weights of its own strips straight from global memory: no weight is decoded twice in a block.
#include <algorithm>
#include <type_traits>

#include "generator/kernels/matmul_cuda.h"

namespace quarry::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStages = 3;       // tiles of x in shared memory
constexpr int kRowPad = 128;     // rows of the prepared x are padded to it
constexpr int kBlockBytes = 64;  // of one row's 32 k

int64_t padded_rows(int64_t m) { return (m + kRowPad - 1) / kRowPad * kRowPad; }
int64_t chunks_of(int64_t k) { return (k + kChunk - 1) / kChunk; }
int64_t prepared_bytes(int64_t m, int64_t k) { return padded_rows(m) * chunks_of(k) * kChunk * 2; }

constexpr int kPrepareThreads = 256;

// One block per row, those past m filled with zeros: out [blocks of 32 k][rows][32] and the row's
// factor.
__global__ void prepare_kernel(const float* x, int m, int64_t ldx, int quads, uint16_t* out,
                               float* factors) {
  const int tid = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x);
  const int64_t rows = gridDim.x;
  float* partial = reinterpret_cast<float*>(shared_memory());
  const float4* values = reinterpret_cast<const float4*>(x + row * ldx);
  const int filled = row < m ? quads : 0;
  float largest = 0.0f;
  for (int quad = tid; quad < filled; quad += kPrepareThreads) {
    const float4 v = values[quad];
    largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
  }
  largest = max_lanes<kWarp>(largest);
  if (tid % kWarp == 0) partial[tid / kWarp] = largest;
  __syncthreads();
  for (int i = 0; i < kPrepareThreads / kWarp; ++i) largest = fmaxf(largest, partial[i]);
  const float factor = input_factor(largest);
  if (tid == 0) factors[row] = factor;
  const int padded = (quads * 4 + kChunk - 1) / kChunk * (kChunk / 4);
  for (int quad = tid; quad < padded; quad += kPrepareThreads) {
    const float4 v = quad < filled ? values[quad] : float4{0.0f, 0.0f, 0.0f, 0.0f};
    *reinterpret_cast<uint2*>(out + (quad / 8 * rows + row) * 32 + input_slot(quad)) =
        uint2{pack_halves(v.x * factor, v.y * factor), pack_halves(v.z * factor, v.w * factor)};
  }
}

struct GemmArguments {
  const uint8_t* x;  // prepared
  const float* factors;
  int64_t padded_rows;
  int m;
  float* y;
  int64_t ldy;
};

// Copies chunk `chunk` of the block's rows of x: two pieces of kTokens * kBlockBytes.
template <int kTokens>
__device__ inline void copy_inputs(const GemmArguments& g, int chunk, int first_token,
                                   uint8_t* stage) {
  constexpr int kPiece = kTokens * kBlockBytes;
  for (int i = static_cast<int>(threadIdx.x) * 16; i < 2 * kPiece; i += kThreads * 16) {
    const int64_t block = 2 * chunk + i / kPiece;
    copy_async(stage + i, g.x + (block * g.padded_rows + first_token) * kBlockBytes + i % kPiece);
  }
}

// A block has kWarps * kStrips strips of weights and 8 * kTiles rows of x; a warp kStrips strips.
template <Layout kLayout, int kSlots, int kStrips, int kTiles>
__global__ void __launch_bounds__(kThreads, 2) gemm_kernel(DeviceMatrixView w, GemmArguments g) {
  constexpr int kTokens = 8 * kTiles;
  constexpr int kStageBytes = 2 * kTokens * kBlockBytes;
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % kWarp;
  const int first_strip = (static_cast<int>(blockIdx.x) * kWarps + tid / kWarp) * kStrips;
  const int first_token = static_cast<int>(blockIdx.y) * kTokens;
  uint8_t* stages = shared_memory();
  uint32_t* table = reinterpret_cast<uint32_t*>(stages + kStages * kStageBytes);
  if (tid < 16) table[tid] = w.codebook[tid];

#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < w.chunks) copy_inputs<kTokens>(g, i, first_token, stages + i * kStageBytes);
    commit_copies();
  }
  Chunk<kLayout, kSlots> chunk[kStrips];
#pragma unroll
  for (int s = 0; s < kStrips; ++s) load_chunk(w, first_strip + s, 0, lane, chunk[s]);

  float total[kStrips][kTiles][4] = {};
  for (int index = 0; index < w.chunks; ++index) {
    wait_copies<kStages - 2>();
    __syncthreads();  // this chunk has come for all threads, and all are done with the last one
    const int ahead = index + kStages - 1;
    if (ahead < w.chunks) {
      copy_inputs<kTokens>(g, ahead, first_token, stages + ahead % kStages * kStageBytes);
    }
    commit_copies();
    Chunk<kLayout, kSlots> next[kStrips];
#pragma unroll
    for (int s = 0; s < kStrips; ++s) load_chunk(w, first_strip + s, index + 1, lane, next[s]);
    const uint8_t* stage = stages + index % kStages * kStageBytes + lane * 16;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      uint32_t a[kStrips][2][4];
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        decode_step(chunk[s], 2 * p, w.center, table, a[s][0]);
        decode_step(chunk[s], 2 * p + 1, w.center, table, a[s][1]);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        // Lane (g, t): 16 bytes of row 8 * tile + g.
        const uint4 b =
            *reinterpret_cast<const uint4*>(stage + (p * kTokens + 8 * tile) * kBlockBytes);
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          multiply_tiles(total[s][tile], a[s][0], b.x, b.y);
          multiply_tiles(total[s][tile], a[s][1], b.z, b.w);
        }
      }
    }
#pragma unroll
    for (int s = 0; s < kStrips; ++s) chunk[s] = next[s];
  }

#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + 8 * tile + 2 * (lane % 4) + i;
      if (token >= g.m) continue;
      const float inverse = 1.0f / g.factors[token];
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int64_t column = (first_strip + s) * kStripRows + lane / 4 + 8 * h;
          if (column >= w.n) continue;
          g.y[token * g.ldy + column] = total[s][tile][2 * h + i] * inverse * w.row_scales[column];
        }
      }
    }
  }
}

template <int kStrips, int kTiles>
int64_t num_blocks(const DeviceMatrixView& w, int64_t m) {
  return (w.strips + kWarps * kStrips - 1) / (kWarps * kStrips) *
         ((m + 8 * kTiles - 1) / (8 * kTiles));
}

template <int kStrips, int kTiles>
void launch_gemm(const DeviceMatrixView& w, const GemmArguments& g, CUstream_st* stream) {
  const int64_t shared = kStages * 2 * 8 * kTiles * kBlockBytes + 16 * 4;
  const dim3 grid(static_cast<unsigned>((w.strips + kWarps * kStrips - 1) / (kWarps * kStrips)),
                  static_cast<unsigned>((g.m + 8 * kTiles - 1) / (8 * kTiles)));
  with_layout(w, [&](auto layout, auto slots) {
    launch("gemm", gemm_kernel<layout(), slots(), kStrips, kTiles>, grid, kThreads, shared, stream,
           w, g);
  });
}

}  // namespace

int64_t gemm_scratch_bytes(int64_t m, int64_t k) {
  return prepared_bytes(m, k) + padded_rows(m) * 4;
}

void gemm(const DeviceMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
          void* scratch, CUstream_st* stream) {
  const DeviceMatrixView& w = weight.view();
  constexpr int64_t kMost = 65535 * 32;  // rows of a grid
  QUARRY_CHECK(m >= 0 && m <= kMost && ldx % 4 == 0 && ldx >= w.k && ldy >= w.n,
               ErrorCode::kInvalidArgument, "gemm: ", m, " rows, ldx ", ldx, ", ldy ", ldy,
               "; want at most ", kMost, " rows, ldx a multiple of 4 and at least ", w.k,
               ", ldy at least ", w.n);
  if (m == 0) return;
  GemmArguments g = {};
  uint8_t* prepared = static_cast<uint8_t*>(scratch);
  float* factors = reinterpret_cast<float*>(prepared + prepared_bytes(m, w.k));
  g.x = prepared;
  g.factors = factors;
  g.padded_rows = padded_rows(m);
  g.m = static_cast<int>(m);
  g.y = y;
  g.ldy = ldy;
  launch("gemm: prepare", prepare_kernel, dim3(static_cast<unsigned>(g.padded_rows)),
         kPrepareThreads, kPrepareThreads / kWarp * 4, stream, x, g.m, ldx,
         static_cast<int>(w.k / 4), reinterpret_cast<uint16_t*>(prepared), factors);
  // The largest tiles that still give every multiprocessor one.
  const int64_t wanted = device_attribute(cudaDevAttrMultiProcessorCount);
  if (num_blocks<2, 16>(w, m) >= wanted) {
    launch_gemm<2, 16>(w, g, stream);
  } else if (m > 32 && num_blocks<1, 8>(w, m) >= wanted) {
    launch_gemm<1, 8>(w, g, stream);
  } else {
    launch_gemm<1, 4>(w, g, stream);
  }
}

}  // namespace quarry::kernels::cuda
