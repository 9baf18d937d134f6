#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace quarry::kernels::cuda {

// Memory of the current CUDA device, not initialized; built with QUARRY_CUDA=ON. Moves, no copies.
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
  // Makes room for `bytes`; what it held is lost then.
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

// Copies inside the device's memory, in the default stream.
void copy_on_device(void* destination, const void* source, int64_t bytes);
void copy_from_device(void* destination, const void* source, int64_t bytes);
void copy_to_device(void* destination, const void* source, int64_t bytes);

struct DeviceMemory {
  int64_t free = 0;
  int64_t total = 0;
};
DeviceMemory device_memory();
// 0 without a driver or a device.
int device_count();
// REQUIRES: a device.
std::string device_name();

}  // namespace quarry::kernels::cuda
