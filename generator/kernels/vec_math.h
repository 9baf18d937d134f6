#pragma once

// exp and the Gaussian tail on a vector type V of vec_*.h.
namespace quarry::kernels {
namespace {

// exp(x), relative error below 3e-7; exactly 0 below -87.33 (so exp(-inf) == 0), largest finite
// value above 88.37, NaN for NaN. x = n ln 2 + r, |r| <= ln(2) / 2, and a polynomial for e^r.
template <typename V>
inline V vexp(V x) {
  const float lowest = -87.33f;
  // The operand order keeps a NaN.
  const V clamped = min(V::set1(88.37f), max(V::set1(lowest), x));
  const V n = round_to_even(clamped * V::set1(1.44269504f));
  V r = fnma(n, V::set1(0.693359375f), clamped);
  r = fnma(n, V::set1(-2.12194440e-4f), r);
  V p = V::set1(1.0f / 720.0f);
  p = fma(p, r, V::set1(1.0f / 120.0f));
  p = fma(p, r, V::set1(1.0f / 24.0f));
  p = fma(p, r, V::set1(1.0f / 6.0f));
  p = fma(p, r, V::set1(0.5f));
  p = fma(p, r, V::set1(1.0f));
  p = fma(p, r, V::set1(1.0f));
  return zero_below(times_power_of_two(p, n), x, lowest);
}

// erfc(z) for z >= 0, absolute error below 3e-7 (Abramowitz & Stegun 7.1.26).
template <typename V>
inline V verfc_positive(V z) {
  const V t = V::set1(1.0f) / fma(V::set1(0.3275911f), z, V::set1(1.0f));
  V p = V::set1(1.061405429f);
  p = fma(p, t, V::set1(-1.453152027f));
  p = fma(p, t, V::set1(1.421413741f));
  p = fma(p, t, V::set1(-0.284496736f));
  p = fma(p, t, V::set1(0.254829592f));
  return p * t * vexp(V::zero() - z * z);
}

}  // namespace
}  // namespace quarry::kernels
