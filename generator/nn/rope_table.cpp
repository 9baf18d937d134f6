#include "generator/nn/rope_table.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {

void RopeTable::grow(int64_t num_positions) {
  const int64_t half = static_cast<int64_t>(inv_freq_.size());
  const int64_t have = static_cast<int64_t>(cos_.size()) / half;
  if (num_positions <= have) return;
  const int64_t want = std::max<int64_t>({num_positions, 2 * have, 512});
  cos_.resize(static_cast<size_t>(want * half));
  sin_.resize(static_cast<size_t>(want * half));
  for (int64_t position = have; position < want; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inv_freq_[static_cast<size_t>(i)];
      cos_[static_cast<size_t>(position * half + i)] = std::cos(angle);
      sin_[static_cast<size_t>(position * half + i)] = std::sin(angle);
    }
  }
}

template <typename Kernel>
void RopeTable::turn(const Kernel& kernel, float* x, const int32_t* positions, int64_t num_rows,
                     int64_t row_stride, int64_t num_heads, int64_t head_dim) const {
  const int64_t rotary_dim = 2 * static_cast<int64_t>(inv_freq_.size());
  if (rotary_dim == head_dim) {
    kernel(x, positions, num_rows, num_heads, head_dim, row_stride, cos_.data(), sin_.data());
    return;
  }
  for (int64_t head = 0; head < num_heads; ++head) {
    kernel(x + head * head_dim, positions, num_rows, 1, rotary_dim, row_stride, cos_.data(),
           sin_.data());
  }
}

Tensor RopeTable::apply(const Tensor& x, const std::vector<int32_t>& positions, int64_t num_heads,
                        int64_t head_dim) {
  QUARRY_DCHECK(x.size(0) == static_cast<int64_t>(positions.size()));
  QUARRY_DCHECK(head_dim >= 2 * static_cast<int64_t>(inv_freq_.size()));
  if (positions.empty()) return x;
  grow(1 + *std::max_element(positions.begin(), positions.end()));
  Tensor turned = at::GradMode::is_enabled() ? x.detach() : x;
  const auto forward = [](float* rows, const int32_t* at, int64_t count, int64_t heads, int64_t dim,
                          int64_t stride, const float* cosine, const float* sine) {
    kernels::rope(rows, at, count, heads, dim, stride, cosine, sine, kernels::RopePairing::kHalf);
  };
  parallel_for(x.size(0), 64, [&](int64_t begin, int64_t end) {
    turn(forward, mutable_row_data(turned, begin), positions.data() + begin, end - begin, x.size(1),
         num_heads, head_dim);
  });
  if (!needs_gradient(x)) return turned;
  return record(turned, {x}, [this, positions, num_heads, head_dim](Tensor gradient) {
    turn(kernels::rope_backward, gradient.data_ptr<float>(), positions.data(), gradient.size(0),
         gradient.size(1), num_heads, head_dim);
    return std::vector<Tensor>{gradient};
  });
}

std::vector<float> rope_inv_freq(double theta, int64_t head_dim) {
  std::vector<float> inv_freq(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    inv_freq[i] = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
  return inv_freq;
}

void scale_llama3(const Llama3RopeScaling& scaling, std::vector<float>& inv_freq) {
  const double context = scaling.original_max_position_embeddings;
  const double long_wavelength = context / scaling.low_freq_factor;
  const double short_wavelength = context / scaling.high_freq_factor;
  for (float& frequency : inv_freq) {
    const double wavelength = 2.0 * M_PI / static_cast<double>(frequency);
    if (wavelength < short_wavelength) continue;
    const double scaled = static_cast<double>(frequency) / scaling.factor;
    if (wavelength > long_wavelength) {
      frequency = static_cast<float>(scaled);
    } else {
      const double smooth = (context / wavelength - scaling.low_freq_factor) /
                            (scaling.high_freq_factor - scaling.low_freq_factor);
      frequency = static_cast<float>((1.0 - smooth) * scaled + smooth * frequency);
    }
  }
}

}  // namespace quarry::nn
