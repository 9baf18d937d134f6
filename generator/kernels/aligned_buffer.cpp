#include "generator/kernels/aligned_buffer.h"

#include <sys/mman.h>

#include <mutex>
#include <new>

namespace quarry::kernels {
namespace {

// Scales of a small matrix and the matrices of adapters too: a token reads them once, and each
// small page costs it a walk through page tables that are as cold.
constexpr int64_t kOwnPages = int64_t{2} << 10;
constexpr size_t kPageBytes = size_t{4} << 10;
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kReserveBytes = size_t{64} << 20;
constexpr std::align_val_t kAlignment{64};

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Hands out pages one after the other from address space that asks the system for huge pages: a
// matrix alone seldom fills one, and products wait for the page tables of small ones. Each piece
// is given back by munmap.
class PageSource {
 public:
  uint8_t* take(size_t bytes) {
    const size_t size = round_up(bytes, kPageBytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (size > left_) reserve(size);
    uint8_t* pages = next_;
    next_ += size;
    left_ -= size;
    return pages;
  }

 private:
  // The rest of the last reservation, which nothing touched, goes back.
  void reserve(size_t bytes) {
    const size_t wanted = round_up(bytes > kReserveBytes ? bytes : kReserveBytes, kHugePageBytes);
    const size_t mapped = wanted + kHugePageBytes - kPageBytes;
    void* memory = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    if (left_ > 0) ::munmap(next_, left_);
    auto* begin = static_cast<uint8_t*>(memory);
    const size_t skipped =
        round_up(reinterpret_cast<size_t>(begin), kHugePageBytes) - reinterpret_cast<size_t>(begin);
    if (skipped > 0) ::munmap(begin, skipped);
    next_ = begin + skipped;
    left_ = mapped - skipped;
    ::madvise(next_, left_, MADV_HUGEPAGE);  // where there are none, small ones do
  }

  std::mutex mutex_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

// Never destroyed: buffers of threads that end late are freed after it would be.
PageSource& page_source() {
  static auto& source = *new PageSource();
  return source;
}

}  // namespace

uint8_t* AlignedBuffer::allocate(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  if (bytes < kOwnPages) return static_cast<uint8_t*>(::operator new(size, kAlignment));
  return page_source().take(size);
}

void AlignedBuffer::Free::operator()(uint8_t* data) const {
  if (bytes < kOwnPages) {
    ::operator delete(data, kAlignment);
  } else {
    ::munmap(data, round_up(static_cast<size_t>(bytes), kPageBytes));
  }
}

}  // namespace quarry::kernels
