#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "generator/kernels/cuda_twins.h"
#include "generator/kernels/device_buffer.h"
#include "generator/kernels/device_graph.h"
#include "generator/nn/linear.h"

namespace quarry {

// What models on a CUDA device have in common. Built with QUARRY_CUDA=ON.

// The matrices and the bias of a Linear.
struct DeviceLinear {
  explicit DeviceLinear(const nn::Linear& linear);
  const nn::Linear* host;  // borrowed
  std::vector<std::unique_ptr<kernels::cuda::DeviceMatrix>> matrices;
  kernels::cuda::DeviceBuffer bias;
};

// What an adapter adds to a Linear: the pairs of its projections below and beside each other, B
// with zeros in the columns of the others.
struct DevicePair {
  int64_t rank = 0;               // 0: nothing
  kernels::cuda::DeviceBuffer a;  // [rank, in_features]
  kernels::cuda::DeviceBuffer b;  // [rank, out_features]
};
using DeviceAdapter = std::map<std::string, DevicePair>;  // by the first path of a Linear
// The adapter's pairs of `linears`, all that a model has; copied to the device the first time, then
// kept with the adapter. Throws kInvalidArgument where it has a whole parameter or too high a rank,
// kUnavailable when the device has too little memory. Any thread.
std::shared_ptr<const DeviceAdapter> device_adapter(const LoraAdapter& adapter,
                                                    const std::vector<const nn::Linear*>& linears);
// Rows [begin, end) of a step that run with an adapter.
struct AdapterRows {
  int64_t begin = 0;
  int64_t end = 0;
  std::shared_ptr<const DeviceAdapter> adapter;
};

// Scratch of the kernels of one stream, and where they are launched.
struct DeviceWork {
  kernels::cuda::DeviceStream stream;
  kernels::cuda::DeviceBuffer scratch;
  void* reserve(int64_t bytes);
};
// y [rows, ldy] = x W^T
void multiply(const kernels::cuda::DeviceMatrix& matrix, const float* x, int64_t rows, float* y,
              int64_t ldy, DeviceWork& work);
// y [rows, out_features], biases and adapters included.
void multiply(const DeviceLinear& linear, const std::vector<AdapterRows>& adapters, const float* x,
              int64_t rows, float* y, DeviceWork& work);

// What a step reads beside its rows, copied to the device in one piece.
class StepTable {
 public:
  // Returns where it begins.
  template <typename T>
  int64_t add(const std::vector<T>& values) {
    const int64_t begin = (static_cast<int64_t>(bytes_.size()) + 15) / 16 * 16;
    bytes_.resize(static_cast<size_t>(begin) + values.size() * sizeof(T));
    std::copy_n(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T),
                bytes_.begin() + begin);
    return begin;
  }
  void upload(kernels::cuda::DeviceBuffer& buffer) const;

 private:
  std::vector<uint8_t> bytes_;
};
// What lies at `place` of an uploaded table.
template <typename T>
const T* at_place(const kernels::cuda::DeviceBuffer& table, int64_t place) {
  return reinterpret_cast<const T*>(table.as<uint8_t>() + place);
}

}  // namespace quarry
