#pragma once

#include <cstdint>

// The bytes of the block formats of GGUF files, as they lie in the file (little-endian, no
// padding).
//
// A block stores kBlockSize consecutive elements of one row. `half` is an IEEE binary16 kept as its
// 16 bits; half_to_float in half.h decodes it. x[i] is the i-th element of the block.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the ggml type list.
namespace quarry::quant {

using half = uint16_t;

constexpr int kBlockSize = 32;        // Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
constexpr int kSuperBlockSize = 256;  // Q4_K, Q5_K, Q6_K

#pragma pack(push, 1)

// x[j] = d * (low nibble of qs[j] - 8), x[j + 16] = d * (high nibble of qs[j] - 8), j < 16.
struct BlockQ4_0 {
  half d;
  uint8_t qs[16];
};

// x[j] = d * (low nibble of qs[j]) + m, x[j + 16] = d * (high nibble of qs[j]) + m, j < 16.
struct BlockQ4_1 {
  half d;
  half m;
  uint8_t qs[16];
};

// As Q4_0 with a fifth bit: bit i of the 32-bit word qh (little-endian) is bit 4 of element i.
// x[i] = d * (q5[i] - 16).
struct BlockQ5_0 {
  half d;
  uint8_t qh[4];
  uint8_t qs[16];
};

// As Q4_1 with the fifth bits of Q5_0. x[i] = d * q5[i] + m.
struct BlockQ5_1 {
  half d;
  half m;
  uint8_t qh[4];
  uint8_t qs[16];
};

// x[i] = d * qs[i].
struct BlockQ8_0 {
  half d;
  int8_t qs[32];
};

// Eight sub-blocks of 32, each with a 6-bit scale sc[s] and a 6-bit minimum mn[s]:
//   x[32 s + i] = (d * sc[s]) * q4 - (dmin * mn[s]).
// Nibbles: sub-blocks 2p and 2p + 1 share qs[32 p .. 32 p + 31], the even one in the low nibbles.
// Packing of the 8 + 8 six-bit numbers in 12 bytes:
//   s < 4:   sc[s] = scales[s] & 63,          mn[s] = scales[s + 4] & 63
//   s >= 4:  sc[s] = (scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4
//            mn[s] = (scales[s + 4] >> 4) | (scales[s] >> 6) << 4
struct BlockQ4_K {
  half d;
  half dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};

// As Q4_K with a fifth bit: bit s of qh[i] is bit 4 of element 32 s + i.
struct BlockQ5_K {
  half d;
  half dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};

// Sixteen sub-blocks of 16 with signed 8-bit scales: x[i] = (d * scales[i / 16]) * (q6[i] - 32).
// The two halves of 128 elements h = 0, 1 are alike. With i = 128 h + 32 g + l, l < 32, g < 4:
//   low four bits:  of ql[64 h + 32 (g & 1) + l], the low nibble when g < 2, else the high one
//   high two bits:  (qh[32 h + l] >> 2 g) & 3
struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  half d;
};

#pragma pack(pop)

static_assert(sizeof(BlockQ4_0) == 18, "Q4_0");
static_assert(sizeof(BlockQ4_1) == 20, "Q4_1");
static_assert(sizeof(BlockQ5_0) == 22, "Q5_0");
static_assert(sizeof(BlockQ5_1) == 24, "Q5_1");
static_assert(sizeof(BlockQ8_0) == 34, "Q8_0");
static_assert(sizeof(BlockQ4_K) == 144, "Q4_K");
static_assert(sizeof(BlockQ5_K) == 176, "Q5_K");
static_assert(sizeof(BlockQ6_K) == 210, "Q6_K");

}  // namespace quarry::quant
