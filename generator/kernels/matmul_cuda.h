#pragma once

#include <type_traits>

#include "generator/kernels/cuda_device.h"
#include "generator/kernels/cuda_twins.h"
#include "generator/kernels/matmul_twins.h"

// What gemv_cuda.cu and gemm_cuda.cu share: the weights as they lie on a device and how a warp
// turns them into operands of multiply_tiles().
namespace quarry::kernels::cuda {

// A strip of 16 rows of W is the left operand (its 16 rows), up to 8 rows of x the right one. The
// four k that lane (g, t) has of 16 are, in this order, 4t .. 4t + 3: both operands number k so.
//
// Weights come in chunks of 64 k of a strip, k padded with zero weights. Lane (g, t) has one vector
// (4-bit codes) or two (8-bit, of 32 k each):
//   kNibbles, kCodebook   word 2p + h: block p of 32 k, row g + 8h; its low nibbles are k 4t .. + 3
//                         and its high ones k 16 + 4t .. + 3, in bytes 0 2 1 3
//   kBytes                word 2p + h: k 16p + 4t .. + 3, row g + 8h
struct DeviceMatrixView {
  Layout layout;
  int slots;  // scales of a row in a chunk: 1, 2 or 4
  int64_t n;
  int64_t k;
  int strips;
  int chunks;
  const uint4* codes;       // [strips][chunks][vectors][32 lanes]
  const uint32_t* scales;   // [strips][chunks][slots][8]: halves of rows g and g + 8
  const uint32_t* offsets;  // the same, or null
  const float* row_scales;  // [strips][16]
  uint32_t center;          // twice 1024 + center, as halves
  uint32_t codebook[16];    // twice the same half
};

constexpr int kChunk = 64;

// x is multiplied in halves, each row by a factor that makes its largest magnitude this: far from
// the largest half, and with 28 bits of range below it.
constexpr float kLargestInput = 16384.0f;
// Keeps the factor of a row of tiny values finite.
constexpr float kLargestFactor = 0x1p100f;

__device__ inline float input_factor(float largest) {
  return largest > 0.0f ? fminf(kLargestInput / largest, kLargestFactor) : 1.0f;
}

// Where the four k from 4 * quad on lie in a row of x prepared for the right operand: blocks of 32
// k, in which lane t's k of both halves of the block are neighbours.
__device__ inline int input_slot(int quad) { return 8 * (quad % 4) + 4 * (quad / 4 % 2); }

template <Layout kLayout, int kSlots>
struct Chunk {
  static constexpr int kVectors = kLayout == Layout::kBytes ? 2 : 1;
  uint4 codes[kVectors];
  uint32_t scales[kSlots];
  uint32_t offsets[kSlots];
};

// Chunk `chunk` of strip `strip`; zero weights when it lies past the matrix.
template <Layout kLayout, int kSlots>
__device__ inline void load_chunk(const DeviceMatrixView& w, int strip, int chunk, int lane,
                                  Chunk<kLayout, kSlots>& out) {
  using C = Chunk<kLayout, kSlots>;
  const bool inside = strip < w.strips && chunk < w.chunks;
  const int64_t index = static_cast<int64_t>(strip) * w.chunks + chunk;
#pragma unroll
  for (int v = 0; v < C::kVectors; ++v) {
    out.codes[v] = inside ? w.codes[(index * C::kVectors + v) * kWarp + lane] : uint4{0, 0, 0, 0};
  }
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int64_t slot = (index * kSlots + s) * 8 + lane / 4;
    out.scales[s] = inside ? w.scales[slot] : 0;
    out.offsets[s] = inside && w.offsets != nullptr ? w.offsets[slot] : 0;
  }
}

__device__ inline uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// The operand of the 16 k from 16 * step on (step 0 .. 3). `table` is the codebook in shared
// memory.
template <Layout kLayout, int kSlots>
__device__ inline void decode_step(const Chunk<kLayout, kSlots>& chunk, int step, uint32_t center,
                                   const uint32_t* table, uint32_t a[4]) {
  constexpr uint32_t k1024 = 0x64006400u;  // a code below 1024 is the last bits of 1024 + code
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    uint32_t first;   // k 4t, 4t + 1
    uint32_t second;  // k 4t + 2, 4t + 3
    if (kLayout == Layout::kBytes) {
      const uint32_t word =
          word_of(chunk.codes[step / 2 % Chunk<kLayout, kSlots>::kVectors], 2 * (step % 2) + h);
      first = subtract_halves(__byte_perm(word, k1024, 0x5150), center);
      second = subtract_halves(__byte_perm(word, k1024, 0x5352), center);
    } else {
      const uint32_t word = word_of(chunk.codes[0], 2 * (step / 2) + h) >> (4 * (step % 2));
      if (kLayout == Layout::kNibbles) {
        first = subtract_halves((word & 0x000f000fu) | k1024, center);
        second = subtract_halves((word >> 8 & 0x000f000fu) | k1024, center);
      } else {
        first = __byte_perm(table[word & 15], table[word >> 16 & 15], 0x5410);
        second = __byte_perm(table[word >> 8 & 15], table[word >> 24 & 15], 0x5410);
      }
    }
    const uint32_t selector = h == 0 ? 0x1010 : 0x3232;
    const uint32_t scale = __byte_perm(chunk.scales[step * kSlots / 4], 0, selector);
    const uint32_t offset = __byte_perm(chunk.offsets[step * kSlots / 4], 0, selector);
    a[h] = fma_halves(first, scale, offset);
    a[2 + h] = fma_halves(second, scale, offset);
  }
}

// Calls use(layout, slots), both as integral_constants, for those of `w`.
template <typename Use>
void with_layout(const DeviceMatrixView& w, const Use& use) {
  using Nibbles = std::integral_constant<Layout, Layout::kNibbles>;
  using Codebook = std::integral_constant<Layout, Layout::kCodebook>;
  using Bytes = std::integral_constant<Layout, Layout::kBytes>;
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  using Four = std::integral_constant<int, 4>;
  if (w.layout == Layout::kNibbles) return use(Nibbles(), Two());
  if (w.layout == Layout::kCodebook) {
    return w.slots == 1 ? use(Codebook(), One()) : use(Codebook(), Two());
  }
  if (w.slots == 1) return use(Bytes(), One());
  return w.slots == 4 ? use(Bytes(), Four()) : use(Bytes(), Two());
}

}  // namespace quarry::kernels::cuda
