#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "generator/kernels/cuda_check.h"

// What the kernels are written with: launches, and the few instructions that C++ has no words for.
// The kernels compile for a GPU (compute capability 8.0 or later) and, with tests/support/cuda_host
// in place of CUDA's headers, for the CPU, where their arithmetic is tested.
namespace quarry::kernels::cuda {

constexpr int kWarp = 32;

#ifdef __CUDACC__

// Starts `kernel` on `stream`; throws kInternal naming `what` when that is refused.
template <typename... Parameters, typename... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), dim3 grid, int threads,
            int64_t shared_bytes, CUstream_st* stream, const Arguments&... arguments) {
  constexpr int64_t kWithoutAsking = 48 * 1024;
  if (shared_bytes > kWithoutAsking) {
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               what);
  }
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), stream>>>(
      Parameters(arguments)...);
  cuda_check(cudaGetLastError(), what);
}

// The block's dynamic shared memory, 16-byte aligned.
__device__ inline uint8_t* shared_memory() {
  extern __shared__ __align__(16) uint8_t quarry_shared_memory[];
  return quarry_shared_memory;
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Two IEEE halves in a word, the first in the low bits.
__device__ inline uint32_t pack_halves(float low, float high) {
  uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
__device__ inline uint32_t subtract_halves(uint32_t a, uint32_t b) {
  uint32_t out;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
// a * b + c of both halves, each rounded once.
__device__ inline uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

// c[16 x 8] += a[16 x 16] * b[16 x 8] of the whole warp, halves into float32 (mma.m16n8k16). With
// g = lane / 4 and t = lane % 4:
//   a[0] row g,     columns 2t, 2t + 1      a[2] row g,     columns 2t + 8, 2t + 9
//   a[1] row g + 8, columns 2t, 2t + 1      a[3] row g + 8, columns 2t + 8, 2t + 9
//   b0   column g, rows 2t, 2t + 1          b1   column g, rows 2t + 8, 2t + 9
//   c[0], c[1] row g, columns 2t, 2t + 1    c[2], c[3] row g + 8
__device__ inline void multiply_tiles(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Loads four 8 x 8 tiles of halves from shared memory. Lane i gives the address of row i % 8 of
// tile i / 8 (16 bytes, aligned); out[j] is row lane / 4, columns 2 (lane % 4) and + 1 of tile j.
__device__ inline void load_tiles(uint32_t out[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same of the tiles transposed: out[j] is column lane / 4, rows 2 (lane % 4) and + 1.
__device__ inline void load_tiles_transposed(uint32_t out[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

// Copies 16 bytes to shared memory in the background, or zeros when not `valid` (`source` must be
// an address all the same). A thread's copies since the last commit_copies() form a group.
__device__ inline void copy_async(void* destination, const void* source, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(destination)), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kGroups of the thread's groups are under way.
template <int kGroups>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kGroups) : "memory");
}

#else

}  // namespace quarry::kernels::cuda

#include <cuda_instructions.h>  // tests/support/cuda_host: the same for the CPU

namespace quarry::kernels::cuda {

#endif

// Over the lanes whose numbers differ in the bits below kLanes; known to each of them.
template <int kLanes>
__device__ inline float sum_lanes(float value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}
template <int kLanes>
__device__ inline float max_lanes(float value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// Of the current device: cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace quarry::kernels::cuda
