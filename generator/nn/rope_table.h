#pragma once

#include <cstdint>
#include <vector>

#include "generator/nn/workspace.h"

namespace quarry::nn {

// Angles of the rotary embedding (Su et al. 2021, arXiv:2104.09864): position p, pair i turns by
// p * inv_freq[i]. Computed in float32 as Hugging Face transformers does, so that long positions
// agree with it. Tables grow with the positions asked for. One thread.
class RopeTable {
 public:
  RopeTable() = default;
  explicit RopeTable(std::vector<float> inv_freq) : inv_freq_(std::move(inv_freq)) {}

  // x with the first `num_heads` heads of every row turned; row t is at positions[t]. Pairs
  // (i, i + R / 2) of the first R = 2 inv_freq.size() values of each head; the others stay. x [T,
  // >= num_heads * head_dim] is a fresh result that only the caller holds: its memory is turned in
  // place, and so is the gradient's. Differentiable.
  Tensor apply(const Tensor& x, const std::vector<int32_t>& positions, int64_t num_heads,
               int64_t head_dim);

  // R.
  int64_t rotary_dim() const { return 2 * static_cast<int64_t>(inv_freq_.size()); }
  // [>= num_positions, R / 2]; valid until more are asked for.
  const std::vector<float>& cosines(int64_t num_positions) {
    grow(num_positions);
    return cos_;
  }
  const std::vector<float>& sines(int64_t num_positions) {
    grow(num_positions);
    return sin_;
  }

 private:
  void grow(int64_t num_positions);

  // A kernel that turns heads of R values, on rows that start at `x`.
  template <typename Kernel>
  void turn(const Kernel& kernel, float* x, const int32_t* positions, int64_t num_rows,
            int64_t row_stride, int64_t num_heads, int64_t head_dim) const;

  std::vector<float> inv_freq_;  // [R / 2]
  std::vector<float> cos_;       // [num_positions, R / 2]
  std::vector<float> sin_;
};

// theta^(-2 i / D) for i < D / 2.
std::vector<float> rope_inv_freq(double theta, int64_t head_dim);

// Llama 3's long-context scaling of those frequencies ("rope_type": "llama3").
struct Llama3RopeScaling {
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_max_position_embeddings = 8192.0;
};
void scale_llama3(const Llama3RopeScaling& scaling, std::vector<float>& inv_freq);

}  // namespace quarry::nn
