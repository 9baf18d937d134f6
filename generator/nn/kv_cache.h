#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace quarry {

// Keys and values of one sequence: for each layer K and V [length, kv_width], kv_width = kv heads
// x head_dim, as IEEE half or float32. Memory grows with the sequence, up to max_seq_len rows.
// One owner thread. Not copyable.
class KvCache {
 public:
  enum class ElementType { kHalf, kFloat };

  KvCache(int64_t num_layers, int64_t kv_width, int64_t max_seq_len, ElementType type);

  // Tokens held.
  int64_t length() const { return length_; }
  int64_t max_seq_len() const { return max_seq_len_; }
  // Memory held, the part not yet used included.
  int64_t bytes() const;
  // Forgets the tokens from `length` on (to reuse a common prefix). REQUIRES: 0 <= length <=
  // length(). The memory is kept.
  void truncate(int64_t length);

  // For the models. A step calls reserve(T), then write() once for each layer, then advance(T).
  // reserve() throws kInvalidArgument, naming both numbers, past max_seq_len; the cache is then
  // unchanged.
  void reserve(int64_t num_tokens);
  // Stores T rows of float32 keys and values, `stride` floats apart, behind the held ones.
  void write(int64_t layer, const float* keys, const float* values, int64_t num_tokens,
             int64_t stride);
  void advance(int64_t num_tokens) { length_ += num_tokens; }

  ElementType element_type() const { return type_; }
  int64_t kv_width() const { return kv_width_; }
  // [capacity, kv_width]; of the element type that the name says. Valid until reserve().
  const uint16_t* half_keys(int64_t layer) const;
  const uint16_t* half_values(int64_t layer) const;
  const float* float_keys(int64_t layer) const;
  const float* float_values(int64_t layer) const;

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  using Buffer = std::unique_ptr<uint8_t, Free>;  // [capacity, kv_width], 64-byte aligned
  struct Layer {
    Buffer keys;
    Buffer values;
  };
  int64_t row_bytes() const;
  void grow(Buffer& buffer, int64_t capacity) const;

  int64_t kv_width_;
  int64_t max_seq_len_;
  ElementType type_;
  int64_t length_ = 0;
  int64_t capacity_ = 0;  // rows
  std::vector<Layer> layers_;
};

}  // namespace quarry
