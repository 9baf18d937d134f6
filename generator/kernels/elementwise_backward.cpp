#include "generator/kernels/elementwise_backward.h"

#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_backward_body.h"
#include "generator/kernels/elementwise_backward_twins.h"
#include "generator/kernels/isa_choice.h"
#include "generator/kernels/vec_portable.h"

namespace quarry::kernels::portable {

QUARRY_DEFINE_ELEMENTWISE_BACKWARD(VecPortable)

}  // namespace quarry::kernels::portable

namespace quarry::kernels {
namespace {

// Elements that a thread should have before a second one is worth waking.
constexpr int64_t kGrain = 16384;

int64_t row_grain(int64_t width) { return (kGrain + width - 1) / (width < 1 ? 1 : width); }

}  // namespace

void rms_norm_backward(const float* x, const float* weight, float epsilon, const float* gradient,
                       int64_t rows, int64_t width, float* out) {
  const auto kernel =
      choose(portable::rms_norm_backward, avx2::rms_norm_backward, avx512::rms_norm_backward);
  parallel_for(rows, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernel(x + row * width, weight, epsilon, gradient + row * width, width, out + row * width);
    }
  });
}

void layer_norm_backward(const float* x, const float* weight, float epsilon, const float* gradient,
                         int64_t rows, int64_t width, float* out) {
  const auto kernel =
      choose(portable::layer_norm_backward, avx2::layer_norm_backward, avx512::layer_norm_backward);
  parallel_for(rows, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernel(x + row * width, weight, epsilon, gradient + row * width, width, out + row * width);
    }
  });
}

void gelu_backward(const float* x, const float* gradient, int64_t count, float* out) {
  choose(portable::gelu_backward, avx2::gelu_backward, avx512::gelu_backward)(x, gradient, count,
                                                                              out);
}

void silu_mul_backward(const float* gate, const float* up, const float* gradient, int64_t count,
                       float* gate_out, float* up_out) {
  choose(portable::silu_mul_backward, avx2::silu_mul_backward, avx512::silu_mul_backward)(
      gate, up, gradient, count, gate_out, up_out);
}

void rope_backward(float* gradient, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
                   int64_t head_dim, int64_t ldx, const float* cos_table, const float* sin_table) {
  const auto kernel =
      choose(portable::rope_half_backward, avx2::rope_half_backward, avx512::rope_half_backward);
  const int64_t half = head_dim / 2;
  parallel_for(num_tokens, row_grain(num_heads * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const float* cosine = cos_table + positions[token] * half;
      const float* sine = sin_table + positions[token] * half;
      for (int64_t head = 0; head < num_heads; ++head) {
        kernel(gradient + token * ldx + head * head_dim, half, cosine, sine);
      }
    }
  });
}

float softmax(float* x, int64_t count, float scale) {
  return choose(portable::softmax, avx2::softmax, avx512::softmax)(x, count, scale);
}

void softmax_backward(const float* p, const float* gradient, int64_t count, float scale,
                      float* out) {
  choose(portable::softmax_backward, avx2::softmax_backward, avx512::softmax_backward)(
      p, gradient, count, scale, out);
}

void add_scaled(const float* x, float factor, int64_t count, float* out) {
  choose(portable::add_scaled, avx2::add_scaled, avx512::add_scaled)(x, factor, count, out);
}

void interleave(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* out) {
  choose(portable::interleave, avx2::interleave, avx512::interleave)(even, odd, count, out);
}

void float_to_bfloat16(const float* x, int64_t count, uint16_t* out) {
  choose(portable::float_to_bfloat16, avx2::float_to_bfloat16, avx512::float_to_bfloat16)(x, count,
                                                                                          out);
}

void bfloat16_to_float(const uint16_t* x, int64_t count, float* out) {
  choose(portable::bfloat16_to_float, avx2::bfloat16_to_float, avx512::bfloat16_to_float)(x, count,
                                                                                          out);
}

}  // namespace quarry::kernels
