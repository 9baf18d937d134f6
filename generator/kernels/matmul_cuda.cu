#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "generator/kernels/cuda_check.h"
#include "generator/kernels/cuda_twins.h"
#include "generator/kernels/packed_strips.h"

namespace quarry::kernels::cuda {
namespace {

// A device buffer filled from host memory, or empty.
class DeviceBytes {
 public:
  DeviceBytes(const void* source, int64_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaMalloc(&data_, static_cast<size_t>(bytes)), "weights: cudaMalloc");
    const cudaError_t status =
        cudaMemcpy(data_, source, static_cast<size_t>(bytes), cudaMemcpyHostToDevice);
    if (status != cudaSuccess) cudaFree(data_);
    cuda_check(status, "weights: cudaMemcpy");
  }
  ~DeviceBytes() { cudaFree(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

constexpr int kWarps = 8;  // of a block, which computes one strip: each warp takes every 8th block
constexpr int kWarp = 32;

// A warp reads 128 consecutive bytes at a time: lanes 0 .. 15 hold the 16 rows' words of one vector
// of the strip, lanes 16 .. 31 those of the next (matmul_twins.h has the layout).
template <Layout kLayout>
__global__ void gemv_kernel(MatrixView w, const float* x, float* y) {
  __shared__ float partial[kWarps][kStripRows];
  const int64_t strip = blockIdx.x;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int row = lane % kStripRows;
  const int odd = lane / kStripRows;
  const int vectors = static_cast<int>(w.block) / (kLayout == Layout::kNibbles ? 8 : 4);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(w.codes + strip * w.strip_bytes);
  const __half* scales = reinterpret_cast<const __half*>(w.scales);
  const __half* offsets = reinterpret_cast<const __half*>(w.offsets);
  float total = 0.0f;
  for (int64_t b = warp; b < w.blocks; b += kWarps) {
    float dot = 0.0f;
    float sum = 0.0f;
    for (int j = odd; j < vectors; j += 2) {
      const uint32_t word = words[(b * vectors + j) * kStripRows + row];
      const float* values = x + b * w.block + 4 * j;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t code = (word >> (8 * i)) & 255u;
        if (kLayout == Layout::kNibbles) {
          dot += static_cast<float>(code & 15u) * values[i];
          dot += static_cast<float>(code >> 4) * values[16 + i];
          sum += values[i] + values[16 + i];
        } else {
          dot += static_cast<float>(code) * values[i];
          sum += values[i];
        }
      }
    }
    const int64_t slot = (strip * w.blocks + b) * kStripRows + row;
    const float scale = __half2float(scales[slot]);
    const float offset = offsets == nullptr ? -w.center * scale : __half2float(offsets[slot]);
    total += scale * dot + offset * sum;
  }
  total += __shfl_xor_sync(0xffffffffu, total, kStripRows);
  if (odd == 0) partial[warp][row] = total;
  __syncthreads();
  const int64_t column = strip * kStripRows + threadIdx.x;
  if (threadIdx.x < kStripRows && column < w.n) {
    float result = 0.0f;
    for (int i = 0; i < kWarps; ++i) result += partial[i][threadIdx.x];
    y[column] = result;
  }
}

int64_t scale_bytes(const MatrixView& w) { return w.strips * w.blocks * kStripRows * 2; }

}  // namespace

struct DeviceMatrix::Storage {
  explicit Storage(const MatrixView& w)
      : codes(w.codes, w.strips * w.strip_bytes),
        scales(w.scales, scale_bytes(w)),
        offsets(w.offsets, w.offsets == nullptr ? 0 : scale_bytes(w)),
        view(w) {
    view.codes = static_cast<const uint8_t*>(codes.data());
    view.scales = static_cast<const uint16_t*>(scales.data());
    view.offsets = static_cast<const uint16_t*>(offsets.data());
  }
  DeviceBytes codes;
  DeviceBytes scales;
  DeviceBytes offsets;
  MatrixView view;  // of the device copies
};

DeviceMatrix::DeviceMatrix(const PackedMatrix& matrix) {
  const MatrixView& w = view_of(matrix);
  const bool has_codes = w.layout == Layout::kNibbles || w.layout == Layout::kBytes;
  QUARRY_CHECK(
      has_codes && w.row_scales == nullptr, ErrorCode::kInvalidArgument,
      "DeviceMatrix: the matrix is packed as bfloat16, float32 or for bitsandbytes' types, "
      "want 4- or 8-bit codes of GGUF types");
  storage_ = std::make_unique<Storage>(w);
}

DeviceMatrix::~DeviceMatrix() = default;
int64_t DeviceMatrix::n() const { return storage_->view.n; }
int64_t DeviceMatrix::k() const { return storage_->view.k; }

void gemv(const DeviceMatrix& weight, const float* x, float* y, CUstream_st* stream) {
  const MatrixView& w = weight.storage_->view;
  const unsigned blocks = static_cast<unsigned>(w.strips);
  if (w.layout == Layout::kNibbles) {
    gemv_kernel<Layout::kNibbles><<<blocks, kWarps * kWarp, 0, stream>>>(w, x, y);
  } else {
    gemv_kernel<Layout::kBytes><<<blocks, kWarps * kWarp, 0, stream>>>(w, x, y);
  }
  cuda_check(cudaGetLastError(), "gemv launch");
}

}  // namespace quarry::kernels::cuda
