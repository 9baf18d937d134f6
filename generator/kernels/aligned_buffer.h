#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "data/core/spill_file.h"

namespace quarry::kernels {

// Uninitialised bytes on a 64-byte boundary, freed with the object. Large ones are pages of their
// own, which go back to the system: holes between what lives longer would not.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws std::bad_alloc.
  explicit AlignedBuffer(int64_t bytes) : data_(allocate(bytes), Free(bytes)), bytes_(bytes) {}

  // Once moved to a file, to be read only.
  uint8_t* data() const {
    return spilled_.data() == nullptr ? data_.get() : const_cast<uint8_t*>(spilled_.data());
  }
  int64_t bytes() const { return bytes_; }
  // Makes room for at least `bytes`; what it held is lost when it grows.
  uint8_t* reserve(int64_t bytes) {
    if (bytes > bytes_) *this = AlignedBuffer(bytes + bytes / 4);
    return data_.get();
  }

  // Leaves memory for the file; data() changes. Throws as SpillFile::put().
  void move_to(SpillFile& file) {
    if (bytes_ == 0 || spilled_.data() != nullptr) return;
    spilled_ = file.put(data_.get(), bytes_);
    data_.reset();
  }
  // Has what lies in a file read ahead.
  void will_need() const { spilled_.will_need(); }

 private:
  struct Free {
    Free() : bytes(0) {}
    explicit Free(int64_t size) : bytes(size) {}
    int64_t bytes;
    void operator()(uint8_t* data) const;
  };
  static uint8_t* allocate(int64_t bytes);
  std::unique_ptr<uint8_t, Free> data_;
  int64_t bytes_ = 0;
  SpillFile::Mapping spilled_;
};

}  // namespace quarry::kernels
