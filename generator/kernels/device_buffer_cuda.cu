#include "data/core/error.h"
#include "generator/kernels/cuda_check.h"
#include "generator/kernels/device_buffer.h"

namespace quarry::kernels::cuda {

DeviceBuffer::DeviceBuffer(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t status = cudaMalloc(&data_, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the next call need not fail for it
    size_t free = 0;
    size_t total = 0;
    cudaMemGetInfo(&free, &total);
    throw_error(ErrorCode::kUnavailable, "the GPU has no ", bytes, " bytes left: ", free, " of ",
                total, " are free");
  }
  cuda_check(status, "cudaMalloc");
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

void DeviceBuffer::grow(int64_t bytes) {
  if (bytes <= bytes_) return;
  *this = DeviceBuffer();  // two at once might not fit
  *this = DeviceBuffer(bytes);
}

void DeviceBuffer::upload(const void* source, int64_t bytes, int64_t offset) {
  QUARRY_DCHECK(offset >= 0 && offset + bytes <= bytes_);
  copy_to_device(as<uint8_t>() + offset, source, bytes);
}

void DeviceBuffer::download(void* destination, int64_t bytes, int64_t offset) const {
  QUARRY_DCHECK(offset >= 0 && offset + bytes <= bytes_);
  copy_from_device(destination, as<uint8_t>() + offset, bytes);
}

void copy_on_device(void* destination, const void* source, int64_t bytes) {
  if (bytes == 0) return;
  cuda_check(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes),
                             cudaMemcpyDeviceToDevice, nullptr),
             "a copy on the GPU");
}

void copy_from_device(void* destination, const void* source, int64_t bytes) {
  if (bytes == 0) return;
  cuda_check(cudaMemcpy(destination, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost),
             "a copy from the GPU");
}

void copy_to_device(void* destination, const void* source, int64_t bytes) {
  if (bytes == 0) return;
  cuda_check(cudaMemcpy(destination, source, static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
             "a copy to the GPU");
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

DeviceFacts device_facts() {
  int device = 0;
  cudaDeviceProp properties = {};
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  size_t free = 0;
  size_t total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {properties.name, properties.major, properties.minor, static_cast<int64_t>(free),
          static_cast<int64_t>(total)};
}

}  // namespace quarry::kernels::cuda
