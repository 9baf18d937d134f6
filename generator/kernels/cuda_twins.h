#pragma once

#include <cstdint>
#include <memory>

#include "generator/kernels/matmul.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

// The CUDA versions, built with QUARRY_CUDA=ON. All pointers are device memory except where said;
// the calls are asynchronous on `stream` (null: the default stream) and throw kInternal when a
// launch or a copy is refused.
namespace quarry::kernels::cuda {

// As kernels::rms_norm.
void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out, CUstream_st* stream);

// A packed integer matrix (4- or 8-bit codes) copied to the current device. Immutable.
class DeviceMatrix {
 public:
  // Throws kInvalidArgument when `matrix` was packed as bfloat16 or float32.
  explicit DeviceMatrix(const PackedMatrix& matrix);
  ~DeviceMatrix();
  DeviceMatrix(const DeviceMatrix&) = delete;
  DeviceMatrix& operator=(const DeviceMatrix&) = delete;

  int64_t n() const;
  int64_t k() const;

 private:
  friend void gemv(const DeviceMatrix& weight, const float* x, float* y, CUstream_st* stream);
  struct Storage;
  std::unique_ptr<Storage> storage_;
};

// y[n] = W x[k] for one token: codes decoded in registers, products and sums in float32 (the
// activations are not quantized here, so the result is nearer to kExact than the CPU's is).
void gemv(const DeviceMatrix& weight, const float* x, float* y, CUstream_st* stream);

}  // namespace quarry::kernels::cuda
