#include "generator/kernels/aligned_buffer.h"

#include <sys/mman.h>

#include <new>

namespace quarry::kernels {
namespace {

constexpr int64_t kOwnPages = int64_t{256} << 10;
constexpr std::align_val_t kAlignment{64};

}  // namespace

uint8_t* AlignedBuffer::allocate(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  if (bytes < kOwnPages) return static_cast<uint8_t*>(::operator new(size, kAlignment));
  void* pages = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  return static_cast<uint8_t*>(pages);
}

void AlignedBuffer::Free::operator()(uint8_t* data) const {
  if (bytes < kOwnPages) {
    ::operator delete(data, kAlignment);
  } else {
    ::munmap(data, static_cast<size_t>(bytes));
  }
}

}  // namespace quarry::kernels
