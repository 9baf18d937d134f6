#pragma once

#include "generator/kernels/elementwise_body.h"

// The gradients on a vector type V of vec_*.h. Included once by each elementwise_backward*.cpp.
namespace quarry::kernels {
namespace {

// y = x r w with r = (mean(x^2) + epsilon)^-1/2:  dx = r (w g) - x r^3 / width * sum(w g x).
template <typename V>
void rms_norm_backward_body(const float* x, const float* weight, float epsilon,
                            const float* gradient, int64_t width, float* out) {
  V squares = V::zero();
  V products = V::zero();
  for_each_vector<V>(width, [&](int64_t i, auto load, auto) {
    const V v = load(x + i);
    squares = fma(v, v, squares);
    products = fma(load(weight + i) * load(gradient + i), v, products);
  });
  const float count = static_cast<float>(width);
  const float r = 1.0f / __builtin_sqrtf(squares.sum() / count + epsilon);
  const V scale = V::set1(r);
  const V pull = V::set1(r * r * r / count * products.sum());
  for_each_vector<V>(width, [&](int64_t i, auto load, auto store) {
    store(fnma(pull, load(x + i), scale * (load(weight + i) * load(gradient + i))), out + i);
  });
}

// y = h w + b with h = (x - mean) r and r = (var + epsilon)^-1/2, and g the gradient of y:
// dx = r (w g - mean(w g) - h mean(w g h)).
template <typename V>
void layer_norm_backward_body(const float* x, const float* weight, float epsilon,
                              const float* gradient, int64_t width, float* out) {
  const float count = static_cast<float>(width);
  V total = V::zero();
  for_each_vector<V>(width, [&](int64_t i, auto load, auto) { total = total + load(x + i); });
  const float mean = total.sum() / count;
  const V center = V::set1(mean);
  V squares = V::zero();
  const int64_t whole = width - width % V::kWidth;
  for (int64_t i = 0; i < whole; i += V::kWidth) {
    const V d = V::load(x + i) - center;
    squares = fma(d, d, squares);
  }
  float variance = squares.sum();
  for (int64_t i = whole; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float r = 1.0f / __builtin_sqrtf(variance / count + epsilon);
  // Lanes past the end hold 0 for w g.
  V sums = V::zero();
  V products = V::zero();
  for_each_vector<V>(width, [&](int64_t i, auto load, auto) {
    const V wg = load(weight + i) * load(gradient + i);
    sums = sums + wg;
    products = fma(wg, load(x + i) - center, products);
  });
  const V shift = V::set1(sums.sum() / count);
  const V pull = V::set1(r * r / count * products.sum());
  const V scale = V::set1(r);
  for_each_vector<V>(width, [&](int64_t i, auto load, auto store) {
    const V wg = load(weight + i) * load(gradient + i) - shift;
    store(scale * fnma(pull, load(x + i) - center, wg), out + i);
  });
}

// gelu(x) = x P(x) with the normal distribution P:  gelu'(x) = P(x) + x exp(-x^2 / 2) / sqrt(2 pi).
template <typename V>
void gelu_backward_body(const float* x, const float* gradient, int64_t count, float* out) {
  const V half = V::set1(0.5f);
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V v = load(x + i);
    const V tail = verfc_positive(abs(v) * V::set1(0.70710678f)) * half;
    const V below = select_by_sign(v, V::set1(1.0f) - tail, tail);
    const V density = vexp(V::zero() - v * v * half) * V::set1(0.39894228f);
    store(load(gradient + i) * fma(v, density, below), out + i);
  });
}

// silu(g) = g s with s = 1 / (1 + e^-g):  silu'(g) = s (1 + g (1 - s)).
template <typename V>
void silu_mul_backward_body(const float* gate, const float* up, const float* gradient,
                            int64_t count, float* gate_out, float* up_out) {
  const V one = V::set1(1.0f);
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V g = load(gate + i);
    const V dy = load(gradient + i);
    const V u = load(up + i);
    const V s = one / (one + vexp(V::zero() - g));
    store(dy * u * s * fma(g, one - s, one), gate_out + i);
    store(dy * g * s, up_out + i);
  });
}

template <typename V>
void rope_half_backward_body(float* gradient, int64_t half, const float* cosine,
                             const float* sine) {
  for_each_vector<V>(half, [&](int64_t i, auto load, auto store) {
    const V a = load(gradient + i);
    const V b = load(gradient + half + i);
    const V c = load(cosine + i);
    const V s = load(sine + i);
    store(fma(b, s, a * c), gradient + i);
    store(fnma(a, s, b * c), gradient + half + i);
  });
}

template <typename V>
float softmax_body(float* x, int64_t count, float scale) {
  const int64_t whole = count - count % V::kWidth;
  float largest = x[0];
  if (whole > 0) {
    V best = V::load(x);
    for (int64_t i = V::kWidth; i < whole; i += V::kWidth) best = max(best, V::load(x + i));
    largest = best.largest();
  }
  for (int64_t i = whole; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  const V shift = V::set1(largest);
  const V factor = V::set1(scale);
  V total = V::zero();
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    store(vexp((load(x + i) - shift) * factor), x + i);
    total = total + load(x + i);
  });
  const float sum = total.sum();
  const V inverse = V::set1(1.0f / sum);
  for_each_vector<V>(
      count, [&](int64_t i, auto load, auto store) { store(load(x + i) * inverse, x + i); });
  return scale * largest + __builtin_logf(sum);
}

template <typename V>
void softmax_backward_body(const float* p, const float* gradient, int64_t count, float scale,
                           float* out) {
  V products = V::zero();
  for_each_vector<V>(count, [&](int64_t i, auto load, auto) {
    products = fma(load(p + i), load(gradient + i), products);
  });
  const V mean = V::set1(products.sum());
  const V factor = V::set1(scale);
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    store(factor * load(p + i) * (load(gradient + i) - mean), out + i);
  });
}

template <typename V>
void add_scaled_body(const float* x, float factor, int64_t count, float* out) {
  const V scale = V::set1(factor);
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    store(fma(load(x + i), scale, load(out + i)), out + i);
  });
}

// Plain integer loops, which compilers vectorize.
inline void interleave_body(const uint16_t* even, const uint16_t* odd, int64_t count,
                            uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[2 * i] = even[i];
    out[2 * i + 1] = odd[i];
  }
}
template <typename V>
inline void float_to_bfloat16_body(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out[i] = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
  }
}
inline void bfloat16_to_float_body(const uint16_t* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = uint32_t{x[i]} << 16;
    __builtin_memcpy(out + i, &bits, sizeof(bits));
  }
}

}  // namespace
}  // namespace quarry::kernels

// The definitions of one instruction set on its vector type.
#define QUARRY_DEFINE_ELEMENTWISE_BACKWARD(V)                                                      \
  void rms_norm_backward(const float* x, const float* weight, float epsilon,                       \
                         const float* gradient, int64_t width, float* out) {                       \
    rms_norm_backward_body<V>(x, weight, epsilon, gradient, width, out);                           \
  }                                                                                                \
  void layer_norm_backward(const float* x, const float* weight, float epsilon,                     \
                           const float* gradient, int64_t width, float* out) {                     \
    layer_norm_backward_body<V>(x, weight, epsilon, gradient, width, out);                         \
  }                                                                                                \
  void gelu_backward(const float* x, const float* gradient, int64_t count, float* out) {           \
    gelu_backward_body<V>(x, gradient, count, out);                                                \
  }                                                                                                \
  void silu_mul_backward(const float* gate, const float* up, const float* gradient, int64_t count, \
                         float* gate_out, float* up_out) {                                         \
    silu_mul_backward_body<V>(gate, up, gradient, count, gate_out, up_out);                        \
  }                                                                                                \
  void rope_half_backward(float* gradient, int64_t half, const float* cosine, const float* sine) { \
    rope_half_backward_body<V>(gradient, half, cosine, sine);                                      \
  }                                                                                                \
  float softmax(float* x, int64_t count, float scale) { return softmax_body<V>(x, count, scale); } \
  void softmax_backward(const float* p, const float* gradient, int64_t count, float scale,         \
                        float* out) {                                                              \
    softmax_backward_body<V>(p, gradient, count, scale, out);                                      \
  }                                                                                                \
  void add_scaled(const float* x, float factor, int64_t count, float* out) {                       \
    add_scaled_body<V>(x, factor, count, out);                                                     \
  }                                                                                                \
  void interleave(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* out) {       \
    interleave_body(even, odd, count, out);                                                        \
  }                                                                                                \
  void float_to_bfloat16(const float* x, int64_t count, uint16_t* out) {                           \
    float_to_bfloat16_body<V>(x, count, out);                                                      \
  }                                                                                                \
  void bfloat16_to_float(const uint16_t* x, int64_t count, float* out) {                           \
    bfloat16_to_float_body(x, count, out);                                                         \
  }
