#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "generator/kernels/attention.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/matmul.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

// The CUDA versions, built with QUARRY_CUDA=ON, for compute capability 8.0 and later. All pointers
// are device memory, 16-byte aligned, except where said; row strides (ldx, ldy, ...) are multiples
// of 4 floats. The calls are asynchronous on `stream` (null: the default stream), may be captured
// into a graph, and throw kInternal when a launch is refused, kInvalidArgument for shapes. They
// are thread-safe as long as their outputs and scratch are distinct.
namespace quarry::kernels::cuda {

struct DeviceMatrixView;

// A packed matrix of 4- or 8-bit codes rearranged for the current device. Immutable. 4-bit codes
// take as many bytes as on the CPU (k padded to a multiple of 64).
class DeviceMatrix {
 public:
  // `matrix` is in host memory and is not kept. Throws kInvalidArgument when it was packed as
  // bfloat16 or float32, kInternal when the device has too little memory.
  explicit DeviceMatrix(const PackedMatrix& matrix);
  ~DeviceMatrix();
  DeviceMatrix(const DeviceMatrix&) = delete;
  DeviceMatrix& operator=(const DeviceMatrix&) = delete;

  int64_t n() const;
  int64_t k() const;
  // Bytes that one pass over the weights reads.
  int64_t bytes() const;
  const DeviceMatrixView& view() const;

 private:
  struct Storage;
  std::unique_ptr<Storage> storage_;
};

// y[m, n] = x[m, k] * W^T, as kernels::matmul: float32 in and out. Weights and x are multiplied as
// IEEE halves (x by a factor for each row, so that no value is too large) and summed in float32; an
// output differs from exact arithmetic by at most 2^-11 of the sum of its products' magnitudes.
// Within gemv, and within gemm, the result of a row depends neither on m nor on the other rows; the
// two add in different orders.
constexpr int64_t kGemvRows = 8;
// 1 to kGemvRows rows: reads the weights once, at the speed of memory.
void gemv(const DeviceMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
          CUstream_st* stream);
// Any number of rows on tensor cores. `scratch` has gemm_scratch_bytes().
int64_t gemm_scratch_bytes(int64_t m, int64_t k);
void gemm(const DeviceMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
          void* scratch, CUstream_st* stream);

// As kernels::attention with keys and values as IEEE half bits. Queries and probabilities are
// rounded to halves too; sums and softmax are float32. Few queries over many keys are shared out by
// ranges of keys, whose sums are joined in a fixed order. REQUIRES: head_dim and ldk multiples of
// 8. `scratch` has attention_scratch_bytes(shape), which may be 0.
int64_t attention_scratch_bytes(const AttentionShape& shape);
void attention(const AttentionShape& shape, const float* q, const uint16_t* k, const uint16_t* v,
               float* out, void* scratch, CUstream_st* stream);

// As those of elementwise.h; out may be x.
void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out, CUstream_st* stream);
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows,
                int64_t width, float* out, CUstream_st* stream);
void silu_mul(const float* gate, const float* up, int64_t count, float* out, CUstream_st* stream);
void rope(float* x, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
          int64_t head_dim, int64_t ldx, const float* cos_table, const float* sin_table,
          RopePairing pairing, CUstream_st* stream);

// What an adapter adds to rows [begin, end):  y += (x A^T) B  (Hu et al. 2021, arXiv:2106.09685),
// float32 throughout. The result of a row does not depend on the other rows.
struct LoraSpan {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t rank = 0;          // at most kMaxLoraRank
  const float* a = nullptr;  // [rank, k]
  const float* b = nullptr;  // [rank, n], times the adapter's scale: LoraWeights::scaled_b
};
constexpr int64_t kMaxLoraRank = 512;
// Of all adapters of a batch in two launches (16 spans each). `spans` is in host memory; they are
// disjoint. x [m, k] and y [m, n] have row strides ldx, ldy. `scratch` has lora_scratch_bytes().
int64_t lora_scratch_bytes(const std::vector<LoraSpan>& spans);
void add_lora(const std::vector<LoraSpan>& spans, const float* x, int64_t k, int64_t ldx, float* y,
              int64_t n, int64_t ldy, void* scratch, CUstream_st* stream);

}  // namespace quarry::kernels::cuda
