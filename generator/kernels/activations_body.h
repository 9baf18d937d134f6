#pragma once

#include "generator/kernels/elementwise_body.h"

// The activation functions on a vector type V of vec_*.h. Included once by each activations*.cpp.
namespace quarry::kernels {
namespace {

// 2 sqrt(2 / pi) and 0.044715 times that: 0.5 (1 + tanh(u)) is 1 / (1 + exp(-2 u)).
constexpr float kGeluLinear = 1.5957691216f;
constexpr float kGeluCubic = 0.0713548162726f;

template <typename V>
inline V gelu_tanh_gate(V x) {
  const V slope = fma(V::set1(kGeluCubic), x * x, V::set1(kGeluLinear));
  return V::set1(1.0f) / (V::set1(1.0f) + vexp(V::zero() - x * slope));
}

// With s = gelu_tanh_gate(x): s + x s (1 - s) u'.
template <typename V>
inline V gelu_tanh_slope(V x, V s) {
  const V inner = fma(V::set1(3.0f * kGeluCubic), x * x, V::set1(kGeluLinear));
  return fma(x * s * (V::set1(1.0f) - s), inner, s);
}

template <typename V>
void gelu_tanh_body(const float* x, int64_t count, float* out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V v = load(x + i);
    store(v * gelu_tanh_gate(v), out + i);
  });
}

template <typename V>
void gelu_tanh_mul_body(const float* gate, const float* up, int64_t count, float* out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V v = load(gate + i);
    store(v * gelu_tanh_gate(v) * load(up + i), out + i);
  });
}

template <typename V>
void relu_body(const float* x, int64_t count, float* out) {
  // The operand order keeps a NaN.
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    store(max(V::zero(), load(x + i)), out + i);
  });
}

// Phi(x) + x phi(x).
template <typename V>
void gelu_backward_body(const float* x, const float* gradient, int64_t count, float* out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V v = load(x + i);
    const V tail = verfc_positive(abs(v) * V::set1(0.70710678f)) * V::set1(0.5f);
    const V below = select_by_sign(v, V::set1(1.0f) - tail, tail);
    const V density = vexp(V::set1(-0.5f) * v * v) * V::set1(0.39894228f);
    store(load(gradient + i) * fma(v, density, below), out + i);
  });
}

template <typename V>
void gelu_tanh_backward_body(const float* x, const float* gradient, int64_t count, float* out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V v = load(x + i);
    store(load(gradient + i) * gelu_tanh_slope(v, gelu_tanh_gate(v)), out + i);
  });
}

// A plain loop, which compilers vectorize.
inline void relu_backward_body(const float* x, const float* gradient, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = x[i] > 0.0f ? gradient[i] : 0.0f;
}

template <typename V>
void gelu_tanh_mul_backward_body(const float* gate, const float* up, const float* gradient,
                                 int64_t count, float* gate_out, float* up_out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V g = load(gate + i);
    const V u = load(up + i);
    const V dy = load(gradient + i);
    const V s = gelu_tanh_gate(g);
    store(dy * u * gelu_tanh_slope(g, s), gate_out + i);
    store(dy * g * s, up_out + i);
  });
}

}  // namespace
}  // namespace quarry::kernels

// The definitions of one instruction set on its vector type.
#define QUARRY_DEFINE_ACTIVATIONS(V)                                                              \
  void gelu_tanh(const float* x, int64_t count, float* out) { gelu_tanh_body<V>(x, count, out); } \
  void gelu_tanh_mul(const float* gate, const float* up, int64_t count, float* out) {             \
    gelu_tanh_mul_body<V>(gate, up, count, out);                                                  \
  }                                                                                               \
  void relu(const float* x, int64_t count, float* out) { relu_body<V>(x, count, out); }           \
  void gelu_backward(const float* x, const float* gradient, int64_t count, float* out) {          \
    gelu_backward_body<V>(x, gradient, count, out);                                               \
  }                                                                                               \
  void gelu_tanh_backward(const float* x, const float* gradient, int64_t count, float* out) {     \
    gelu_tanh_backward_body<V>(x, gradient, count, out);                                          \
  }                                                                                               \
  void relu_backward(const float* x, const float* gradient, int64_t count, float* out) {          \
    relu_backward_body(x, gradient, count, out);                                                  \
  }                                                                                               \
  void gelu_tanh_mul_backward(const float* gate, const float* up, const float* gradient,          \
                              int64_t count, float* gate_out, float* up_out) {                    \
    gelu_tanh_mul_backward_body<V>(gate, up, gradient, count, gate_out, up_out);                  \
  }
