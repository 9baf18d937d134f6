#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "generator/kernels/device_buffer.h"
#include "generator/nn/kv_cache.h"

namespace quarry {

// Pages of caches on the device. One that is given back is handed out again: allocating makes the
// device wait.
class DevicePages final : public KvMemory {
 public:
  std::string name() const override {
    const kernels::cuda::DeviceFacts facts = kernels::cuda::device_facts();
    return concat("cuda ", facts.major, ".", facts.minor);
  }
  uint8_t* allocate(int64_t bytes) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<kernels::cuda::DeviceBuffer>& free = free_[bytes];
    kernels::cuda::DeviceBuffer buffer;
    if (free.empty()) {
      buffer = kernels::cuda::DeviceBuffer(bytes);
    } else {
      buffer = std::move(free.back());
      free.pop_back();
    }
    auto* data = buffer.as<uint8_t>();
    in_use_[data] = std::move(buffer);
    return data;
  }
  void release(uint8_t* data, int64_t bytes) noexcept override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = in_use_.find(data);
    if (it == in_use_.end()) return;
    free_[bytes].push_back(std::move(it->second));
    in_use_.erase(it);
  }
  // Gives back to the device what is free.
  void trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.clear();
  }
  void copy(uint8_t* to, const uint8_t* from, int64_t bytes) const override {
    kernels::cuda::copy_on_device(to, from, bytes);
  }
  void read(const uint8_t* from, void* to, int64_t bytes) const override {
    kernels::cuda::copy_from_device(to, from, bytes);
  }
  void write(const void* from, uint8_t* to, int64_t bytes) const override {
    kernels::cuda::copy_to_device(to, from, bytes);
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, std::vector<kernels::cuda::DeviceBuffer>> free_;
  std::map<const uint8_t*, kernels::cuda::DeviceBuffer> in_use_;
};

}  // namespace quarry
