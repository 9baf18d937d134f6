#pragma once

#include <cstdint>

namespace quarry {

// Sum of x[0 .. count) in the order in which torch.sum of PyTorch 2 adds up a contiguous float32
// tensor on one CPU thread, hence with its rounding: eight lanes times four rows, in a cascade of
// four levels (aten/src/ATen/native/cpu/SumKernel.cpp).
float sum_as_pytorch(const float* x, int64_t count);

}  // namespace quarry
