#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace quarry::kernels::cuda {

// Memory of the current CUDA device, which is the first unless somebody sets another, not
// initialized; built with QUARRY_CUDA=ON. Moves, no copies. One thread for each buffer.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Throws kUnavailable when the device has too little memory, naming both sizes.
  explicit DeviceBuffer(int64_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  // Makes room for `bytes`; what it held is lost then, and nothing is there when it throws.
  void grow(int64_t bytes);
  // The source may change when the call returns; later kernels of the default stream see the copy.
  // REQUIRES: offset + bytes <= bytes().
  void upload(const void* source, int64_t bytes, int64_t offset = 0);
  // Of what the kernels before it in the default stream have left.
  void download(void* destination, int64_t bytes, int64_t offset = 0) const;

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

template <typename T>
DeviceBuffer on_device(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  DeviceBuffer buffer(bytes);
  buffer.upload(values.data(), bytes);
  return buffer;
}

// Copies inside the device's memory, under way when it returns: later work sees it done.
void copy_on_device(void* destination, const void* source, int64_t bytes);
// From and to the CPU's memory; done when they return.
void copy_from_device(void* destination, const void* source, int64_t bytes);
void copy_to_device(void* destination, const void* source, int64_t bytes);

// 0 without a driver or a device.
int device_count();
// Of the current device.
struct DeviceFacts {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int major = 0;     // compute capability
  int minor = 0;
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
constexpr int kFewestMajor = 8;  // that the kernels are compiled for
DeviceFacts device_facts();      // throws kInternal

}  // namespace quarry::kernels::cuda
