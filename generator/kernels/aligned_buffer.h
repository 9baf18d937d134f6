#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace quarry::kernels {

// Uninitialised bytes on a 64-byte boundary, freed with the object.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t bytes)
      : data_(static_cast<uint8_t*>(
            ::operator new (static_cast<size_t>(bytes), std::align_val_t{64}))),
        bytes_(bytes) {}

  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }
  // Makes room for at least `bytes`; what it held is lost when it grows.
  uint8_t* reserve(int64_t bytes) {
    if (bytes > bytes_) *this = AlignedBuffer(bytes + bytes / 4);
    return data_.get();
  }

 private:
  struct Free {
    void operator()(uint8_t* data) const { ::operator delete (data, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t, Free> data_;
  int64_t bytes_ = 0;
};

}  // namespace quarry::kernels
