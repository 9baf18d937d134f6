#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/attention.h"

namespace quarry {

// Memory for pages that is not the CPU's. Thread-safe.
class KvMemory {
 public:
  virtual ~KvMemory() = default;
  // Whose computation the pages hold: "cuda 9.0".
  virtual std::string name() const = 0;
  // 64-byte aligned. Throws kUnavailable when there is no memory.
  virtual uint8_t* allocate(int64_t bytes) = 0;
  // Work that is under way may still read them.
  virtual void release(uint8_t* data, int64_t bytes) noexcept = 0;
  // Inside it; may be under way when it returns, later work sees it done.
  virtual void copy(uint8_t* to, const uint8_t* from, int64_t bytes) const = 0;
  // To and from the CPU's memory; done when they return.
  virtual void read(const uint8_t* from, void* to, int64_t bytes) const = 0;
  virtual void write(const void* from, uint8_t* to, int64_t bytes) const = 0;
};

// Keys and values of kKvPageTokens consecutive tokens in all layers: [num_layers, 2 (K, V)] of
// [kKvPageTokens, kv_width] IEEE half or float32, or of a tile of key_value_tiles.h. 64-byte
// aligned.
class KvPage {
 public:
  // `memory` null: the CPU's. Throws kUnavailable when there is none.
  explicit KvPage(int64_t bytes, std::shared_ptr<KvMemory> memory = nullptr);
  ~KvPage();
  KvPage(const KvPage&) = delete;
  KvPage& operator=(const KvPage&) = delete;

  // In the page's own memory.
  uint8_t* data() { return data_; }
  int64_t bytes() const { return bytes_; }
  // Copies between pages of the same memory; bytes [offset, offset + count).
  void copy_from(const KvPage& page, int64_t offset, int64_t count);
  // From and to the CPU's memory, the whole page.
  void read(void* to) const;
  void write(const void* from);

 private:
  kernels::AlignedBuffer buffer_;
  std::shared_ptr<KvMemory> memory_;
  uint8_t* data_ = nullptr;
  int64_t bytes_;
};
constexpr int64_t kKvPageTokens = 64;
// Of the order of elements in a page, which files of pages note: raise it when that changes.
constexpr int kKvPageLayoutVersion = 2;

// What the layers of a decoder see of a source that its encoder has read. Immutable: caches share
// it.
struct EncoderMemory {
  int64_t num_rows = 0;
  // Of each layer [num_rows, 2 kv_width]: the keys, then the values of a row.
  std::vector<std::vector<float>> layers;
};

// Keys and values of one sequence: for each layer K and V [length, kv_width], kv_width =
// num_kv_heads x head_dim, in pages (Kwon et al. 2023, arXiv:2309.06180) that caches may share; one
// that others refer to is copied before it is written. Memory grows with the sequence, up to
// max_seq_len tokens. One thread for all caches that share pages. Not copyable.
class KvCache {
 public:
  enum class ElementType { kHalf, kBFloat16, kFloat };

  KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, int64_t max_seq_len,
          ElementType type, std::shared_ptr<KvMemory> page_memory = nullptr);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // Tokens held.
  int64_t length() const { return length_; }
  int64_t max_seq_len() const { return max_seq_len_; }
  // Memory of the pages, those that are shared and the part not yet used included.
  int64_t bytes() const { return static_cast<int64_t>(pages_.size()) * page_bytes(); }
  // Forgets the tokens from `length` on. REQUIRES: 0 <= length <= length(). The memory is kept.
  void truncate(int64_t length);

  // The pages in order; the last may be filled in part, and more may follow that hold nothing.
  const std::vector<std::shared_ptr<KvPage>>& pages() const { return pages_; }
  // Holds from now on the first `length` tokens of these pages, which come from a cache of the same
  // shape and computed the same tokens with the same weights.
  void share(std::vector<std::shared_ptr<KvPage>> pages, int64_t length);

  // Of an encoder-decoder, until the next; null before the first.
  const std::shared_ptr<const EncoderMemory>& memory() const { return memory_; }
  void set_memory(std::shared_ptr<const EncoderMemory> memory) { memory_ = std::move(memory); }

  // For the models. A step calls reserve(T), then write() once for each layer, then advance(T).
  // reserve() throws kInvalidArgument, naming both numbers, past max_seq_len; the cache then holds
  // what it held.
  void reserve(int64_t num_tokens);
  // Stores T rows of float32 keys and values, `stride` floats apart, behind the held ones. Pages in
  // memory of their own are written by who runs there.
  void write(int64_t layer, const float* keys, const float* values, int64_t num_tokens,
             int64_t stride);
  void advance(int64_t num_tokens) { length_ += num_tokens; }

  int64_t num_layers() const { return num_layers_; }
  // Null: the CPU's.
  const std::shared_ptr<KvMemory>& page_memory() const { return page_memory_; }
  int64_t page_bytes() const { return num_layers_ * 2 * part_elements() * element_bytes(); }
  ElementType element_type() const { return type_; }
  int64_t kv_width() const { return num_kv_heads_ * head_dim_; }
  // Of the element type that the name says; tiles of bfloat16. Valid until reserve() or share().
  kernels::KeyValuePages<uint16_t> half_pages(int64_t layer) const;
  kernels::KeyValuePages<float> float_pages(int64_t layer) const;
  kernels::KeyValueTiles tiles(int64_t layer) const;

 private:
  int64_t part_elements() const;
  int64_t element_bytes() const { return type_ == ElementType::kFloat ? 4 : 2; }
  void write_rows(const float* rows, int64_t stride, int64_t count, int64_t part, int64_t token);
  void copy_page(size_t index, int64_t num_tokens);
  void list_pages();
  template <typename T>
  kernels::KeyValuePages<T> pages_of_layer(const std::vector<const T*>& pages, int64_t layer) const;

  int64_t num_layers_;
  int64_t num_kv_heads_;
  int64_t head_dim_;
  int64_t max_seq_len_;
  ElementType type_;
  std::shared_ptr<KvMemory> page_memory_;
  int64_t length_ = 0;
  std::vector<std::shared_ptr<KvPage>> pages_;
  // Where they begin; the one of the element type's size.
  std::vector<const uint16_t*> half_pages_;
  std::vector<const float*> float_pages_;
  std::shared_ptr<const EncoderMemory> memory_;
};

}  // namespace quarry
