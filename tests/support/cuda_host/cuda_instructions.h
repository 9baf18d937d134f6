#pragma once

// generator/kernels/cuda_device.h for the CPU: the same names, each in plain C++.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "generator/quant/half.h"
#include "tests/support/cuda_host/fiber_block.h"

// CUDA's own device functions.
inline void __syncthreads() { quarry::cuda_host::wait_block(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  struct Lane {
    float in;
    float out;
    int mask;
  } lane = {value, 0.0f, mask};
  quarry::cuda_host::exchange(&lane, [](quarry::cuda_host::WarpValues values) {
    for (int i = 0; i < 32; ++i) {
      Lane* own = static_cast<Lane*>(values[i]);
      own->out = static_cast<const Lane*>(values[i ^ own->mask])->in;
    }
  });
  return lane.out;
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = low | static_cast<uint64_t>(high) << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint64_t byte = bytes >> (8 * (selector >> (4 * i) & 7)) & 255;
    out |= static_cast<uint32_t>(byte) << (8 * i);
  }
  return out;
}

namespace quarry::kernels::cuda {

template <typename... Parameters, typename... Arguments>
void launch(const char*, void (*kernel)(Parameters...), dim3 grid, int threads,
            int64_t shared_bytes, CUstream_st*, const Arguments&... arguments) {
  gridDim = grid;
  for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
    blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    cuda_host::run_block(threads, shared_bytes, i % 2 == 0,
                         [&] { kernel(Parameters(arguments)...); });
  }
}

inline uint8_t* shared_memory() { return cuda_host::shared_memory(); }

inline float low_half(uint32_t word) { return quant::half_to_float(word & 0xffffu); }
inline float high_half(uint32_t word) { return quant::half_to_float(word >> 16); }
inline uint32_t pack_halves(float low, float high) {
  return quant::float_to_half(low) | static_cast<uint32_t>(quant::float_to_half(high)) << 16;
}
inline uint32_t subtract_halves(uint32_t a, uint32_t b) {
  return pack_halves(low_half(a) - low_half(b), high_half(a) - high_half(b));
}
// float32 holds a product of halves exactly and their sum but for what rounding to half drops.
inline uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
  return pack_halves(std::fma(low_half(a), low_half(b), low_half(c)),
                     std::fma(high_half(a), high_half(b), high_half(c)));
}

inline void multiply_tiles(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  struct Lane {
    float* c;
    uint32_t a[4];
    uint32_t b[2];
  } lane = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  cuda_host::exchange(&lane, [](cuda_host::WarpValues values) {
    float left[16][16];
    float right[16][8];
    for (int i = 0; i < 32; ++i) {
      const Lane& own = *static_cast<const Lane*>(values[i]);
      const int g = i / 4;
      const int t = i % 4;
      for (int j = 0; j < 4; ++j) {
        left[g + 8 * (j % 2)][2 * t + 8 * (j / 2)] = low_half(own.a[j]);
        left[g + 8 * (j % 2)][2 * t + 8 * (j / 2) + 1] = high_half(own.a[j]);
      }
      for (int j = 0; j < 2; ++j) {
        right[2 * t + 8 * j][g] = low_half(own.b[j]);
        right[2 * t + 8 * j + 1][g] = high_half(own.b[j]);
      }
    }
    for (int i = 0; i < 32; ++i) {
      for (int j = 0; j < 4; ++j) {
        float& sum = static_cast<const Lane*>(values[i])->c[j];
        for (int k = 0; k < 16; ++k) {
          sum += left[i / 4 + j / 2 * 8][k] * right[k][2 * (i % 4) + j % 2];
        }
      }
    }
  });
}

struct TileLane {
  const uint16_t* row;
  uint32_t* out;
};
inline void load_tiles(uint32_t out[4], const void* row) {
  TileLane lane = {static_cast<const uint16_t*>(row), out};
  cuda_host::exchange(&lane, [](cuda_host::WarpValues values) {
    for (int i = 0; i < 32; ++i) {
      for (int tile = 0; tile < 4; ++tile) {
        const uint16_t* source = static_cast<const TileLane*>(values[8 * tile + i / 4])->row;
        std::memcpy(static_cast<const TileLane*>(values[i])->out + tile, source + 2 * (i % 4), 4);
      }
    }
  });
}
inline void load_tiles_transposed(uint32_t out[4], const void* row) {
  TileLane lane = {static_cast<const uint16_t*>(row), out};
  cuda_host::exchange(&lane, [](cuda_host::WarpValues values) {
    for (int i = 0; i < 32; ++i) {
      for (int tile = 0; tile < 4; ++tile) {
        const auto at = [&](int r) -> uint32_t {
          return static_cast<const TileLane*>(values[8 * tile + r])->row[i / 4];
        };
        static_cast<const TileLane*>(values[i])->out[tile] = at(2 * (i % 4)) | at(2 * (i % 4) + 1)
                                                                                   << 16;
      }
    }
  });
}

inline void copy_async(void* destination, const void* source, bool valid = true) {
  QUARRY_CHECK(reinterpret_cast<uintptr_t>(destination) % 16 == 0 &&
                   reinterpret_cast<uintptr_t>(source) % 16 == 0,
               ErrorCode::kInternal, "copy_async: addresses are not multiples of 16");
  cuda_host::begin_copy(destination, source, valid);
}
inline void commit_copies() { cuda_host::close_copies(); }
template <int kGroups>
void wait_copies() {
  cuda_host::finish_copies(kGroups);
}

}  // namespace quarry::kernels::cuda
