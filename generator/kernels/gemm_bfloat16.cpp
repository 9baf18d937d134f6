#include "generator/kernels/gemm_bfloat16.h"

#include <cstring>

#include "generator/kernels/gemm_bfloat16_twins.h"
#include "generator/kernels/gemm_body.h"
#include "generator/kernels/isa_choice.h"
#include "generator/kernels/vec_portable.h"

namespace quarry::kernels::portable {
namespace {

struct PairsPortable {
  VecPortable even;
  VecPortable odd;

  static float widen(uint16_t value) {
    const uint32_t bits = uint32_t{value} << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof(wide));
    return wide;
  }
  static PairsPortable set1(BFloat16Pair pair) {
    return {VecPortable::set1(widen(pair.even)), VecPortable::set1(widen(pair.odd))};
  }
  static PairsPortable set1(const BFloat16Quad& quad) {
    PairsPortable pairs = {};
    for (int i = 0; i < VecPortable::kWidth; ++i) {
      pairs.even.lane[i] = widen(quad.pairs[i % 2].even);
      pairs.odd.lane[i] = widen(quad.pairs[i % 2].odd);
    }
    return pairs;
  }
  static PairsPortable load(const BFloat16Pair* p) { return load_first(p, VecPortable::kWidth); }
  static PairsPortable load_first(const BFloat16Pair* p, int64_t count) {
    PairsPortable pairs = {VecPortable::zero(), VecPortable::zero()};
    for (int64_t i = 0; i < count; ++i) {
      pairs.even.lane[i] = widen(p[i].even);
      pairs.odd.lane[i] = widen(p[i].odd);
    }
    return pairs;
  }
};

inline VecPortable fma(const PairsPortable& a, const PairsPortable& b, VecPortable c) {
  return a.even * b.even + (a.odd * b.odd + c);
}

}  // namespace

void gemm_bfloat16_serial(const GemmShape& shape, const BFloat16Pair* a, const BFloat16Pair* b,
                          float* c) {
  gemm_body<VecPortable, PairsPortable, 2, 2>(shape, a, b, c);
}

void gemm_bfloat16_quads_serial(const GemmShape& shape, const BFloat16Quad* a,
                                const BFloat16Pair* b, float* c) {
  gemm_body<VecPortable, PairsPortable, 2, 2>(shape, a, b, c);
}

}  // namespace quarry::kernels::portable

namespace quarry::kernels {

void gemm_bfloat16_serial(const GemmShape& shape, const BFloat16Pair* a, const BFloat16Pair* b,
                          float* c) {
  if (shape.m <= 0 || shape.n <= 0) return;
  choose(portable::gemm_bfloat16_serial, portable::gemm_bfloat16_serial,
         avx512::gemm_bfloat16_serial)(shape, a, b, c);
}

void gemm_bfloat16_quads_serial(const GemmShape& shape, const BFloat16Quad* a,
                                const BFloat16Pair* b, float* c) {
  if (shape.m <= 0 || shape.n <= 0) return;
  choose(portable::gemm_bfloat16_quads_serial, portable::gemm_bfloat16_quads_serial,
         avx512::gemm_bfloat16_quads_serial)(shape, a, b, c);
}

bool multiplies_bfloat16() { return choose(false, false, true); }

}  // namespace quarry::kernels
