#pragma once

#include <cstdint>

#include "generator/kernels/gemm.h"

namespace quarry::kernels {

// Elements 2 p and 2 p + 1 along k of a bfloat16 operand: what one 32-bit lane multiplies at once.
struct BFloat16Pair {
  uint16_t even;
  uint16_t odd;
};

// gemm_serial of bfloat16 operands, summed in float32: A [m, k / 2] and B [k / 2, n] hold pairs,
// and k and the strides of A and B in `shape` count pairs. An odd k is filled up with zeros. The
// result of a row does not depend on m or n.
void gemm_bfloat16_serial(const GemmShape& shape, const BFloat16Pair* a, const BFloat16Pair* b,
                          float* c);

// Two pairs that lie next to each other along k.
struct BFloat16Quad {
  BFloat16Pair pairs[2];
};

// For a C of few columns, two of which make one sum: A [m, k] holds quads (k and the strides of A
// count them), whose first pairs meet the even columns of B [k, n], their second pairs the odd
// ones.
void gemm_bfloat16_quads_serial(const GemmShape& shape, const BFloat16Quad* a,
                                const BFloat16Pair* b, float* c);

// Whether this CPU multiplies pairs; elsewhere gemm_bfloat16_serial is plain code, and float32 the
// faster choice.
bool multiplies_bfloat16();

}  // namespace quarry::kernels
