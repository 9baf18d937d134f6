#include "generator/nn/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "data/core/error.h"
#include "generator/kernels/elementwise.h"

namespace quarry {
namespace {

constexpr int64_t kBlockRows = 256;
constexpr size_t kAlignment = 64;

}  // namespace

KvCache::KvCache(int64_t num_layers, int64_t kv_width, int64_t max_seq_len, ElementType type)
    : kv_width_(kv_width),
      max_seq_len_(max_seq_len),
      type_(type),
      layers_(static_cast<size_t>(num_layers)) {}

int64_t KvCache::row_bytes() const {
  return kv_width_ * (type_ == ElementType::kHalf ? int64_t{2} : int64_t{4});
}

int64_t KvCache::bytes() const {
  return 2 * static_cast<int64_t>(layers_.size()) * capacity_ * row_bytes();
}

void KvCache::truncate(int64_t length) {
  QUARRY_DCHECK(length >= 0 && length <= length_);
  length_ = length;
}

void KvCache::grow(Buffer& buffer, int64_t capacity) const {
  const size_t bytes = static_cast<size_t>(capacity * row_bytes());
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  QUARRY_CHECK(memory != nullptr, ErrorCode::kUnavailable, "key/value cache: no memory for ", bytes,
               " bytes");
  if (length_ > 0) {
    std::memcpy(memory, buffer.get(), static_cast<size_t>(length_ * row_bytes()));
  }
  buffer.reset(static_cast<uint8_t*>(memory));
}

void KvCache::reserve(int64_t num_tokens) {
  const int64_t needed = length_ + num_tokens;
  QUARRY_CHECK(needed <= max_seq_len_, ErrorCode::kInvalidArgument, "sequence of ", needed,
               " tokens: the model's context holds ", max_seq_len_);
  if (needed <= capacity_) return;
  // Doubling keeps the copies of a long generation linear in its length.
  int64_t capacity = std::max(needed, 2 * capacity_);
  capacity = std::min((capacity + kBlockRows - 1) / kBlockRows * kBlockRows, max_seq_len_);
  for (Layer& layer : layers_) {
    grow(layer.keys, capacity);
    grow(layer.values, capacity);
  }
  capacity_ = capacity;
}

void KvCache::write(int64_t layer, const float* keys, const float* values, int64_t num_tokens,
                    int64_t stride) {
  QUARRY_DCHECK(length_ + num_tokens <= capacity_);
  const auto store = [&](const float* rows, Buffer& buffer) {
    uint8_t* destination = buffer.get() + length_ * row_bytes();
    for (int64_t row = 0; row < num_tokens; ++row, destination += row_bytes()) {
      if (type_ == ElementType::kHalf) {
        kernels::float_to_half(rows + row * stride, kv_width_,
                               reinterpret_cast<uint16_t*>(destination));
      } else {
        std::memcpy(destination, rows + row * stride, static_cast<size_t>(row_bytes()));
      }
    }
  };
  store(keys, layers_[static_cast<size_t>(layer)].keys);
  store(values, layers_[static_cast<size_t>(layer)].values);
}

const uint16_t* KvCache::half_keys(int64_t layer) const {
  return reinterpret_cast<const uint16_t*>(layers_[static_cast<size_t>(layer)].keys.get());
}
const uint16_t* KvCache::half_values(int64_t layer) const {
  return reinterpret_cast<const uint16_t*>(layers_[static_cast<size_t>(layer)].values.get());
}
const float* KvCache::float_keys(int64_t layer) const {
  return reinterpret_cast<const float*>(layers_[static_cast<size_t>(layer)].keys.get());
}
const float* KvCache::float_values(int64_t layer) const {
  return reinterpret_cast<const float*>(layers_[static_cast<size_t>(layer)].values.get());
}

}  // namespace quarry
