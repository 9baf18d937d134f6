#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// Eight floats in plain C++, with the interface of vec_avx2.h and vec_avx512.h: one kernel body
// serves all three. Everything is local to the file that includes it.
namespace quarry::kernels {
namespace {

struct VecPortable {
  static constexpr int kWidth = 8;
  float lane[kWidth];

  static VecPortable set1(float value) {
    VecPortable v;
    for (float& lane : v.lane) lane = value;
    return v;
  }
  static VecPortable zero() { return set1(0.0f); }
  static VecPortable load(const float* p) {
    VecPortable v;
    std::memcpy(v.lane, p, sizeof(v.lane));
    return v;
  }
  // The first `count` <= kWidth values; the other lanes are 0.
  static VecPortable load_first(const float* p, int64_t count) {
    VecPortable v = zero();
    std::memcpy(v.lane, p, static_cast<size_t>(count) * sizeof(float));
    return v;
  }
  static VecPortable load_half(const uint16_t* p) {
    VecPortable v;
    for (int i = 0; i < kWidth; ++i) v.lane[i] = half_lane(p[i]);
    return v;
  }
  void store(float* p) const { std::memcpy(p, lane, sizeof(lane)); }
  void store_first(float* p, int64_t count) const {
    std::memcpy(p, lane, static_cast<size_t>(count) * sizeof(float));
  }

  float sum() const {
    float total = 0.0f;
    for (float value : lane) total += value;
    return total;
  }
  float largest() const {
    float best = lane[0];
    for (float value : lane) best = value > best ? value : best;
    return best;
  }

 private:
  static float half_lane(uint16_t bits) {
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &magnitude, sizeof(value));
    value *= 0x1p112f;  // rebias the exponent; subnormals come out exact
    if ((bits & 0x7c00u) == 0x7c00u) {
      const uint32_t special = 0x7f800000u | magnitude;
      std::memcpy(&value, &special, sizeof(value));
    }
    return (bits & 0x8000u) != 0 ? -value : value;
  }
};

#define QUARRY_LANEWISE(name, expression)                 \
  inline VecPortable name(VecPortable a, VecPortable b) { \
    VecPortable out;                                      \
    for (int i = 0; i < VecPortable::kWidth; ++i) {       \
      const float x = a.lane[i];                          \
      const float y = b.lane[i];                          \
      out.lane[i] = (expression);                         \
    }                                                     \
    return out;                                           \
  }
QUARRY_LANEWISE(operator+, x + y)
QUARRY_LANEWISE(operator-, x - y)
QUARRY_LANEWISE(operator*, x* y)
QUARRY_LANEWISE(operator/, x / y)
QUARRY_LANEWISE(max, x > y ? x : y)  // y when either is NaN, as the instructions do
QUARRY_LANEWISE(min, x < y ? x : y)
QUARRY_LANEWISE(copy_sign, std::copysign(x, y))
#undef QUARRY_LANEWISE

// a * b + c
inline VecPortable fma(VecPortable a, VecPortable b, VecPortable c) { return a * b + c; }
// c - a * b
inline VecPortable fnma(VecPortable a, VecPortable b, VecPortable c) { return c - a * b; }
inline VecPortable round_to_even(VecPortable a) {
  for (float& lane : a.lane) lane = std::nearbyint(lane);
  return a;
}
// value * 2^n for integral n in [-126, 127].
inline VecPortable times_power_of_two(VecPortable value, VecPortable n) {
  for (float& lane : n.lane) {
    // NaN and what lies outside would overflow the conversion.
    const float clamped = lane > -126.0f ? (lane < 127.0f ? lane : 127.0f) : -126.0f;
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(clamped) + 127) << 23;
    std::memcpy(&lane, &bits, sizeof(lane));
  }
  return value * n;
}
// value where x >= bound or x is NaN, else 0
inline VecPortable zero_below(VecPortable value, VecPortable x, float bound) {
  for (int i = 0; i < VecPortable::kWidth; ++i) {
    if (x.lane[i] < bound) value.lane[i] = 0.0f;
  }
  return value;
}
// value where x >= 0, else other
inline VecPortable select_by_sign(VecPortable x, VecPortable value, VecPortable other) {
  for (int i = 0; i < VecPortable::kWidth; ++i) {
    if (!(x.lane[i] >= 0.0f)) value.lane[i] = other.lane[i];
  }
  return value;
}
inline VecPortable abs(VecPortable a) {
  for (float& lane : a.lane) lane = std::fabs(lane);
  return a;
}

// out[c * out_stride + r] = in[r * in_stride + c], r and c < kWidth.
inline void transpose_block(const VecPortable* rows, float* out, int64_t out_stride) {
  for (int r = 0; r < VecPortable::kWidth; ++r) {
    for (int c = 0; c < VecPortable::kWidth; ++c) out[c * out_stride + r] = rows[r].lane[c];
  }
}

}  // namespace
}  // namespace quarry::kernels
