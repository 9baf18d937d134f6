#include "generator/nn/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "data/core/error.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/key_value_tiles.h"

namespace quarry {

static_assert(kKvPageTokens == kernels::kTileKeys, "a page of bfloat16 holds one tile");

namespace {

int64_t pages_of(int64_t num_tokens) { return (num_tokens + kKvPageTokens - 1) / kKvPageTokens; }

}  // namespace

KvPage::KvPage(int64_t bytes, std::shared_ptr<KvMemory> memory)
    : memory_(std::move(memory)), bytes_(bytes) {
  if (memory_ != nullptr) {
    data_ = memory_->allocate(bytes);
    return;
  }
  try {
    buffer_ = kernels::AlignedBuffer(bytes);
    data_ = buffer_.data();
  } catch (const std::bad_alloc&) {
    throw_error(ErrorCode::kUnavailable, "key/value cache: no memory for ", bytes, " bytes");
  }
}

KvPage::~KvPage() {
  if (memory_ != nullptr) memory_->release(data_, bytes_);
}

void KvPage::copy_from(const KvPage& page, int64_t offset, int64_t count) {
  QUARRY_DCHECK(page.memory_ == memory_ && offset + count <= bytes_);
  if (memory_ != nullptr) return memory_->copy(data_ + offset, page.data_ + offset, count);
  std::memcpy(data_ + offset, page.data_ + offset, static_cast<size_t>(count));
}

void KvPage::read(void* to) const {
  if (memory_ != nullptr) return memory_->read(data_, to, bytes_);
  std::memcpy(to, data_, static_cast<size_t>(bytes_));
}

void KvPage::write(const void* from) {
  if (memory_ != nullptr) return memory_->write(from, data_, bytes_);
  std::memcpy(data_, from, static_cast<size_t>(bytes_));
}

KvCache::KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, int64_t max_seq_len,
                 ElementType type, std::shared_ptr<KvMemory> page_memory)
    : num_layers_(num_layers),
      num_kv_heads_(num_kv_heads),
      head_dim_(head_dim),
      max_seq_len_(max_seq_len),
      type_(type),
      page_memory_(std::move(page_memory)) {}

// Of the keys or the values of one layer in a page.
int64_t KvCache::part_elements() const {
  const int64_t head_dim =
      type_ == ElementType::kBFloat16 ? kernels::padded_head_dim(head_dim_) : head_dim_;
  return kKvPageTokens * num_kv_heads_ * head_dim;
}

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
  auto copy = std::make_shared<KvPage>(page_bytes(), page_memory_);
  const int64_t stride = part_elements() * element_bytes();
  const bool is_rows = type_ != ElementType::kBFloat16;
  const int64_t bytes = is_rows ? stride / kKvPageTokens * num_tokens : stride;
  if (page_memory_ != nullptr && num_tokens > 0) {
    copy->copy_from(*pages_[index], 0, page_bytes());  // one call for all parts
  } else {
    for (int64_t part = 0; part < 2 * num_layers_ && num_tokens > 0; ++part) {
      copy->copy_from(*pages_[index], part * stride, bytes);
    }
  }
  pages_[index] = std::move(copy);
}

void KvCache::list_pages() {
  half_pages_.clear();
  float_pages_.clear();
  for (const std::shared_ptr<KvPage>& page : pages_) {
    if (type_ == ElementType::kFloat) {
      float_pages_.push_back(reinterpret_cast<const float*>(page->data()));
    } else {
      half_pages_.push_back(reinterpret_cast<const uint16_t*>(page->data()));
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
      pages_.push_back(std::make_shared<KvPage>(page_bytes(), page_memory_));
    } else if (pages_[index].use_count() > 1) {
      copy_page(index, std::max<int64_t>(0, length_ - page * kKvPageTokens));
    } else {
      continue;
    }
    list_pages();
  }
}

// Rows that lie in one page.
void KvCache::write_rows(const float* rows, int64_t stride, int64_t count, int64_t part,
                         int64_t token) {
  const int64_t place = token % kKvPageTokens;
  uint8_t* page = pages_[static_cast<size_t>(token / kKvPageTokens)]->data();
  uint8_t* begin = page + part * part_elements() * element_bytes();
  auto* words = reinterpret_cast<uint16_t*>(begin);
  if (type_ == ElementType::kBFloat16) {
    const auto store = part % 2 == 0 ? kernels::store_keys : kernels::store_values;
    return store(rows, stride, count, num_kv_heads_, head_dim_, place, words);
  }
  const int64_t width = kv_width();
  for (int64_t i = 0; i < count; ++i) {
    if (type_ == ElementType::kHalf) {
      kernels::float_to_half(rows + i * stride, width, words + (place + i) * width);
    } else {
      std::memcpy(begin + (place + i) * width * 4, rows + i * stride,
                  static_cast<size_t>(width) * 4);
    }
  }
}

void KvCache::write(int64_t layer, const float* keys, const float* values, int64_t num_tokens,
                    int64_t stride) {
  QUARRY_DCHECK(pages_of(length_ + num_tokens) <= static_cast<int64_t>(pages_.size()));
  QUARRY_DCHECK(page_memory_ == nullptr);
  for (int64_t row = 0; row < num_tokens;) {
    const int64_t token = length_ + row;
    const int64_t count = std::min(num_tokens - row, kKvPageTokens - token % kKvPageTokens);
    write_rows(keys + row * stride, stride, count, 2 * layer, token);
    write_rows(values + row * stride, stride, count, 2 * layer + 1, token);
    row += count;
  }
}

template <typename T>
kernels::KeyValuePages<T> KvCache::pages_of_layer(const std::vector<const T*>& pages,
                                                  int64_t layer) const {
  const int64_t part = part_elements();
  return {pages.data(), pages.data(), kKvPageTokens, 2 * layer * part, (2 * layer + 1) * part};
}

kernels::KeyValuePages<uint16_t> KvCache::half_pages(int64_t layer) const {
  QUARRY_DCHECK(type_ == ElementType::kHalf);
  return pages_of_layer(half_pages_, layer);
}

kernels::KeyValuePages<float> KvCache::float_pages(int64_t layer) const {
  QUARRY_DCHECK(type_ == ElementType::kFloat);
  return pages_of_layer(float_pages_, layer);
}

kernels::KeyValueTiles KvCache::tiles(int64_t layer) const {
  QUARRY_DCHECK(type_ == ElementType::kBFloat16);
  const int64_t part = part_elements();
  return {half_pages_.data(), half_pages_.data(), 2 * layer * part, (2 * layer + 1) * part};
}

}  // namespace quarry
