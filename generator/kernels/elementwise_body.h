#pragma once

#include "generator/kernels/vec_math.h"

// The elementwise kernels on a vector type V of vec_*.h. Included once by each elementwise_*.cpp.
namespace quarry::kernels {
namespace {

// Calls step(i, load, store) over [0, count): whole vectors, then one partial one.
template <typename V, typename Step>
inline void for_each_vector(int64_t count, const Step& step) {
  int64_t i = 0;
  for (; i + V::kWidth <= count; i += V::kWidth) {
    step(
        i, [](const float* p) { return V::load(p); }, [](V v, float* p) { v.store(p); });
  }
  const int64_t rest = count - i;
  if (rest > 0) {
    step(
        i, [rest](const float* p) { return V::load_first(p, rest); },
        [rest](V v, float* p) { v.store_first(p, rest); });
  }
}

template <typename V>
void rms_norm_body(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  V squares = V::zero();
  for_each_vector<V>(width, [&](int64_t i, auto load, auto) {
    const V v = load(x + i);
    squares = fma(v, v, squares);
  });
  const float mean = squares.sum() / static_cast<float>(width);
  const V scale = V::set1(1.0f / __builtin_sqrtf(mean + epsilon));
  for_each_vector<V>(width, [&](int64_t i, auto load, auto store) {
    store(load(x + i) * scale * load(weight + i), out + i);
  });
}

template <typename V>
void layer_norm_body(const float* x, const float* weight, const float* bias, float epsilon,
                     int64_t width, float* out) {
  V total = V::zero();
  for_each_vector<V>(width, [&](int64_t i, auto load, auto) { total = total + load(x + i); });
  const float mean = total.sum() / static_cast<float>(width);
  // Two passes: the variance about the mean loses nothing to cancellation.
  V squares = V::zero();
  const V center = V::set1(mean);
  const int64_t whole = width - width % V::kWidth;
  for (int64_t i = 0; i < whole; i += V::kWidth) {
    const V d = V::load(x + i) - center;
    squares = fma(d, d, squares);
  }
  float variance = squares.sum();
  for (int64_t i = whole; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean);
  variance /= static_cast<float>(width);
  const V scale = V::set1(1.0f / __builtin_sqrtf(variance + epsilon));
  for_each_vector<V>(width, [&](int64_t i, auto load, auto store) {
    const V normed = (load(x + i) - center) * scale * load(weight + i);
    store(bias == nullptr ? normed : normed + load(bias + i), out + i);
  });
}

template <typename V>
void silu_mul_body(const float* gate, const float* up, int64_t count, float* out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V g = load(gate + i);
    const V denominator = V::set1(1.0f) + vexp(V::zero() - g);
    store(g / denominator * load(up + i), out + i);
  });
}

template <typename V>
void gelu_body(const float* x, int64_t count, float* out) {
  for_each_vector<V>(count, [&](int64_t i, auto load, auto store) {
    const V v = load(x + i);
    const V half_tail = verfc_positive(abs(v) * V::set1(0.70710678f)) * V::set1(0.5f) * v;
    store(select_by_sign(v, v - half_tail, half_tail), out + i);
  });
}

template <typename V>
void add_body(const float* a, const float* b, int64_t count, float* out) {
  for_each_vector<V>(
      count, [&](int64_t i, auto load, auto store) { store(load(a + i) + load(b + i), out + i); });
}

// One head of one token.
template <typename V>
void rope_half_body(float* x, int64_t half, const float* cosine, const float* sine) {
  for_each_vector<V>(half, [&](int64_t i, auto load, auto store) {
    const V a = load(x + i);
    const V b = load(x + half + i);
    const V c = load(cosine + i);
    const V s = load(sine + i);
    store(fnma(b, s, a * c), x + i);
    store(fma(a, s, b * c), x + half + i);
  });
}

template <typename V>
void half_to_float_body(const uint16_t* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + V::kWidth <= count; i += V::kWidth) V::load_half(x + i).store(out + i);
  if (i < count) {
    uint16_t rest[V::kWidth] = {};
    for (int64_t j = i; j < count; ++j) rest[j - i] = x[j];
    V::load_half(rest).store_first(out + i, count - i);
  }
}

// Index of the first largest value. NaN never wins unless all are NaN (then 0).
template <typename V>
int64_t argmax_body(const float* x, int64_t count) {
  // -FLT_MAX is below what matters; -inf everywhere falls through to the loop below.
  V best = V::set1(-3.402823466e+38f);
  const int64_t whole = count - count % V::kWidth;
  // The operand order drops a NaN in x.
  for (int64_t i = 0; i < whole; i += V::kWidth) best = max(V::load(x + i), best);
  float largest = best.largest();
  for (int64_t i = whole; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] == largest) return i;
  }
  return 0;
}

inline bool has_nan_body(const float* x, int64_t count) {
  int32_t found = 0;  // without a way out of the loop it is done in vectors
  for (int64_t i = 0; i < count; ++i) found |= x[i] != x[i] ? 1 : 0;
  return found != 0;
}

}  // namespace
}  // namespace quarry::kernels
