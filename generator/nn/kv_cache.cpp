#include "generator/nn/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "data/core/error.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"

namespace quarry {
namespace {

int64_t pages_of(int64_t num_tokens) { return (num_tokens + kKvPageTokens - 1) / kKvPageTokens; }

}  // namespace

KvPage::KvPage(int64_t bytes) {
  try {
    data_ = kernels::AlignedBuffer(bytes);
  } catch (const std::bad_alloc&) {
    throw_error(ErrorCode::kUnavailable, "key/value cache: no memory for ", bytes, " bytes");
  }
}

KvCache::KvCache(int64_t num_layers, int64_t kv_width, int64_t max_seq_len, ElementType type)
    : num_layers_(num_layers), kv_width_(kv_width), max_seq_len_(max_seq_len), type_(type) {}

int64_t KvCache::row_bytes() const {
  return kv_width_ * (type_ == ElementType::kFloat ? int64_t{4} : int64_t{2});
}

int64_t KvCache::page_bytes() const { return num_layers_ * 2 * kKvPageTokens * row_bytes(); }

void KvCache::truncate(int64_t length) {
  QUARRY_DCHECK(length >= 0 && length <= length_);
  length_ = length;
}

void KvCache::share(std::vector<std::shared_ptr<KvPage>> pages, int64_t length) {
  QUARRY_DCHECK(length <= max_seq_len_ && static_cast<int64_t>(pages.size()) >= pages_of(length));
  QUARRY_DCHECK(pages.empty() || pages[0]->bytes() == page_bytes());
  pages_ = std::move(pages);
  length_ = length;
  list_pages();
}

// A page of one's own with the first tokens of the one that is there.
void KvCache::copy_page(size_t index, int64_t num_tokens) {
  auto copy = std::make_shared<KvPage>(page_bytes());
  const int64_t stride = kKvPageTokens * row_bytes();
  for (int64_t part = 0; part < 2 * num_layers_ && num_tokens > 0; ++part) {
    std::memcpy(copy->data() + part * stride, pages_[index]->data() + part * stride,
                static_cast<size_t>(num_tokens * row_bytes()));
  }
  pages_[index] = std::move(copy);
}

void KvCache::list_pages() {
  half_pages_.clear();
  bfloat16_pages_.clear();
  float_pages_.clear();
  for (const std::shared_ptr<KvPage>& page : pages_) {
    if (type_ == ElementType::kHalf) {
      half_pages_.push_back(reinterpret_cast<const uint16_t*>(page->data()));
    } else if (type_ == ElementType::kBFloat16) {
      bfloat16_pages_.push_back(reinterpret_cast<const kernels::BFloat16*>(page->data()));
    } else {
      float_pages_.push_back(reinterpret_cast<const float*>(page->data()));
    }
  }
}

void KvCache::reserve(int64_t num_tokens) {
  const int64_t needed = length_ + num_tokens;
  QUARRY_CHECK(needed <= max_seq_len_, ErrorCode::kInvalidArgument, "sequence of ", needed,
               " tokens: the model's context holds ", max_seq_len_);
  for (int64_t page = length_ / kKvPageTokens; page < pages_of(needed); ++page) {
    const size_t index = static_cast<size_t>(page);
    if (index == pages_.size()) {
      pages_.push_back(std::make_shared<KvPage>(page_bytes()));
    } else if (pages_[index].use_count() > 1) {
      copy_page(index, std::max<int64_t>(0, length_ - page * kKvPageTokens));
    } else {
      continue;
    }
    list_pages();
  }
}

void KvCache::write(int64_t layer, const float* keys, const float* values, int64_t num_tokens,
                    int64_t stride) {
  QUARRY_DCHECK(pages_of(length_ + num_tokens) <= static_cast<int64_t>(pages_.size()));
  const auto store = [&](const float* rows, int64_t part) {
    for (int64_t row = 0; row < num_tokens; ++row) {
      const int64_t token = length_ + row;
      uint8_t* page = pages_[static_cast<size_t>(token / kKvPageTokens)]->data();
      uint8_t* destination = page + (part * kKvPageTokens + token % kKvPageTokens) * row_bytes();
      if (type_ == ElementType::kHalf) {
        kernels::float_to_half(rows + row * stride, kv_width_,
                               reinterpret_cast<uint16_t*>(destination));
      } else if (type_ == ElementType::kBFloat16) {
        kernels::float_to_bfloat16(rows + row * stride, kv_width_,
                                   reinterpret_cast<uint16_t*>(destination));
      } else {
        std::memcpy(destination, rows + row * stride, static_cast<size_t>(row_bytes()));
      }
    }
  };
  store(keys, 2 * layer);
  store(values, 2 * layer + 1);
}

template <typename T>
kernels::KeyValuePages<T> KvCache::pages_of_layer(const std::vector<const T*>& pages,
                                                  int64_t layer) const {
  const int64_t part = kKvPageTokens * kv_width_;
  return {pages.data(), pages.data(), kKvPageTokens, 2 * layer * part, (2 * layer + 1) * part};
}

kernels::KeyValuePages<uint16_t> KvCache::half_pages(int64_t layer) const {
  return pages_of_layer(half_pages_, layer);
}

kernels::KeyValuePages<kernels::BFloat16> KvCache::bfloat16_pages(int64_t layer) const {
  return pages_of_layer(bfloat16_pages_, layer);
}

kernels::KeyValuePages<float> KvCache::float_pages(int64_t layer) const {
  return pages_of_layer(float_pages_, layer);
}

}  // namespace quarry
