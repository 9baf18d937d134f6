#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/gemm_bfloat16_twins.h"
#include "generator/kernels/gemm_body.h"
#include "generator/kernels/vec_avx512.h"

namespace quarry::kernels::avx512 {
namespace {

struct PairsAvx512 {
  __m512i v;

  static PairsAvx512 set1(BFloat16Pair pair) {
    int32_t bits;
    __builtin_memcpy(&bits, &pair, sizeof(bits));
    return {_mm512_set1_epi32(bits)};
  }
  static PairsAvx512 set1(const BFloat16Quad& quad) {
    int64_t bits;
    __builtin_memcpy(&bits, &quad, sizeof(bits));
    return {_mm512_set1_epi64(bits)};
  }
  static PairsAvx512 load(const BFloat16Pair* p) { return {_mm512_loadu_si512(p)}; }
  static PairsAvx512 load_first(const BFloat16Pair* p, int64_t count) {
    return {_mm512_maskz_loadu_epi32(static_cast<__mmask16>((uint32_t{1} << count) - 1), p)};
  }
};

inline VecAvx512 fma(PairsAvx512 a, PairsAvx512 b, VecAvx512 c) {
  return {_mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}

}  // namespace

void gemm_bfloat16_serial(const GemmShape& shape, const BFloat16Pair* a, const BFloat16Pair* b,
                          float* c) {
  gemm_body<VecAvx512, PairsAvx512, 6, 4>(shape, a, b, c);
}

void gemm_bfloat16_quads_serial(const GemmShape& shape, const BFloat16Quad* a,
                                const BFloat16Pair* b, float* c) {
  gemm_body<VecAvx512, PairsAvx512, 6, 4>(shape, a, b, c);
}

}  // namespace quarry::kernels::avx512
