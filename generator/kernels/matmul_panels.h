#pragma once

#include "generator/kernels/matmul.h"

namespace quarry::kernels {

// matmul_group without updates, weights and activations rounded to bytes: of targets that share k.
void multiply_group_bytes(const MatmulTarget* targets, int64_t count, const float* x, int64_t m,
                          int64_t ldx, const RoundedCopy& copy);
// Its plain twin, for one weight.
void multiply_bytes_reference(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx,
                              float* y, int64_t ldy);

}  // namespace quarry::kernels
