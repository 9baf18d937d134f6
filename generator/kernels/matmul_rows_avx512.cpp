#include <immintrin.h>
#include <stdint.h>

#include "generator/kernels/matmul_twins.h"
#include "generator/kernels/strips_avx512.h"

// Rows of activations as the tiles take them: per block `block` high bytes, then `block` low bytes;
// of one term, `block` bytes.
namespace quarry::kernels::avx512 {
namespace {

// One block of 16 * kVectors elements, in bytes or as 16-bit integers in order.
enum class Form { kBytes, kWords };
template <int kVectors, Form kForm>
inline void quantize_block(const float* x, int terms, uint8_t* codes, float* scale, int32_t* sum) {
  const auto most = static_cast<float>(activation_max(terms));
  __m512 values[kVectors];
  __m512 largest = _mm512_setzero_ps();
  __mmask16 special = 0;  // infinities and NaN
  for (int v = 0; v < kVectors; ++v) {
    values[v] = _mm512_loadu_ps(x + 16 * v);
    special = static_cast<__mmask16>(special | _mm512_fpclass_ps_mask(values[v], 0x99));
    largest = _mm512_max_ps(largest, _mm512_abs_ps(values[v]));
  }
  const float amax = _mm512_reduce_max_ps(largest);
  float inverse = amax > 0.0f ? most / amax : 0.0f;
  if (special != 0 || !(inverse <= 3.402823466e+38f)) inverse = 0.0f;
  *scale = special != 0 ? __builtin_nanf("") : amax / most;
  __m512i total = _mm512_setzero_si512();
  for (int v = 0; v < kVectors; ++v) {
    const __m512i value =
        inverse > 0.0f ? _mm512_cvtps_epi32(_mm512_mul_ps(values[v], _mm512_set1_ps(inverse)))
                       : _mm512_setzero_si512();
    total = _mm512_add_epi32(total, value);
    if (kForm == Form::kWords) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + 32 * v), _mm512_cvtepi32_epi16(value));
      continue;
    }
    __m512i high = value;
    if (terms == 2) {
      high = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(128)), 8);
      const __m512i low = _mm512_sub_epi32(value, _mm512_slli_epi32(high, 8));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * (kVectors + v)),
                       _mm512_cvtepi32_epi8(low));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * v), _mm512_cvtepi32_epi8(high));
  }
  *sum = _mm512_reduce_add_epi32(total);
}

}  // namespace

void quantize_row(const float* x, int64_t k, int64_t block, int terms, uint8_t* codes,
                  float* scales, int32_t* sums) {
  for (int64_t b = 0; b < k / block; ++b) {
    uint8_t* out = codes + b * block * terms;
    if (block == kByteBlock) {
      quantize_block<4, Form::kBytes>(x + 64 * b, terms, out, scales + b, sums + b);
    } else if (block == 32) {
      quantize_block<2, Form::kBytes>(x + 32 * b, terms, out, scales + b, sums + b);
    } else {
      quantize_block<1, Form::kBytes>(x + 16 * b, terms, out, scales + b, sums + b);
    }
  }
}

void quantize_words(const float* x, int64_t k, int64_t, uint8_t* codes, float* scales,
                    int32_t* sums) {
  for (int64_t b = 0; b < k / 32; ++b) {
    quantize_block<2, Form::kWords>(x + 32 * b, 2, codes + 64 * b, scales + b, sums + b);
  }
}

void bfloat16_row(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; i += 16) {
    const __mmask16 mask = column_mask(k - i);
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    _mm256_mask_storeu_epi16(out + i, mask, reinterpret_cast<__m256i>(half));
  }
  if (k % 2 == 1) out[k] = 0;
}

}  // namespace quarry::kernels::avx512
