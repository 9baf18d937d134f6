#include "generator/nn/workspace.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace quarry::nn {
namespace {

constexpr int64_t kBlockFloats = 4096;
// A narrow tensor that stays does not take the memory of a wide one, which would be missed.
constexpr int64_t kMostTooLarge = 2;

// Larger tensors do not fit where the ones before them were.
void give_back_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

int64_t capacity(const Tensor& buffer) {
  return static_cast<int64_t>(buffer.storage().nbytes() / sizeof(float));
}

bool is_free(const Tensor& buffer) {
  return buffer.use_count() == 1 && buffer.storage().use_count() == 1;
}

}  // namespace

Tensor Workspace::empty(int64_t rows, int64_t width) { return take(rows, width, kMostTooLarge); }

Tensor Workspace::empty_to_keep(int64_t rows, int64_t width) { return take(rows, width, 1); }

Tensor Workspace::take(int64_t rows, int64_t width, int64_t most_too_large) {
  int64_t needed = (rows == pass_rows_ ? most_rows_ : rows) * width;
  needed = (std::max<int64_t>(needed, 1) + kBlockFloats - 1) / kBlockFloats * kBlockFloats;
  Tensor* best = nullptr;
  Tensor* too_small = nullptr;
  for (Tensor& buffer : buffers_) {
    if (!is_free(buffer)) continue;
    if (capacity(buffer) < needed) {
      // The largest: small ones will be asked for again.
      if (too_small == nullptr || capacity(buffer) > capacity(*too_small)) too_small = &buffer;
    } else if (capacity(buffer) <= most_too_large * needed &&
               (best == nullptr || capacity(buffer) < capacity(*best))) {
      best = &buffer;
    }
  }
  if (best == nullptr) {
    if (too_small != nullptr) buffers_.erase(buffers_.begin() + (too_small - buffers_.data()));
    buffers_.push_back(at::empty({needed}, at::kFloat));
    best = &buffers_.back();
  }
  best->unsafeGetTensorImpl()->set_sizes_contiguous({rows, width});
  // With gradients on, the history hangs on a tensor of its own over the same memory.
  return c10::GradMode::is_enabled() ? best->detach() : *best;
}

void Workspace::begin_pass(int64_t rows) {
  pass_rows_ = rows;
  if (rows <= most_rows_) return;
  most_rows_ = rows;
  trim();
  give_back_free_memory();
}

void Workspace::trim() {
  buffers_.erase(std::remove_if(buffers_.begin(), buffers_.end(), is_free), buffers_.end());
}

int64_t Workspace::bytes() const {
  int64_t total = 0;
  for (const Tensor& buffer : buffers_) total += static_cast<int64_t>(buffer.storage().nbytes());
  return total;
}

}  // namespace quarry::nn
