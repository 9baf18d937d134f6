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

template <Form kForm, int kTerms>
constexpr int kCodeBytes = kForm == Form::kWords ? 2 : kTerms;  // of an element

// Blocks whose maxima and sums are taken together: one by one, a block waits for its own.
constexpr int kBlocksAtOnce = 4;

// Four vectors -> the largest lane (as unsigned integers) or the sum of each.
template <typename Combine>
inline __m128i reduce_four(const __m512i* vectors, const Combine& combine) {
  const __m512i ab = combine(_mm512_unpacklo_epi32(vectors[0], vectors[1]),
                             _mm512_unpackhi_epi32(vectors[0], vectors[1]));
  const __m512i cd = combine(_mm512_unpacklo_epi32(vectors[2], vectors[3]),
                             _mm512_unpackhi_epi32(vectors[2], vectors[3]));
  const __m512i all = combine(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m512i half = combine(all, _mm512_shuffle_i32x4(all, all, 0x4e));
  return _mm512_castsi512_si128(combine(half, _mm512_shuffle_i32x4(half, half, 0xb1)));
}

// 32 integers, none out of range, as words.
inline __m512i pack_words(__m512i first, __m512i second) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  return _mm512_permutexvar_epi64(order, _mm512_packs_epi32(first, second));
}

// One block's integers -> its codes, and a vector whose lanes have their sum.
template <int kVectors, Form kForm, int kTerms>
inline __m512i store_codes(const __m512i* values, uint8_t* codes) {
  if constexpr (kForm == Form::kBytes && kTerms == 1 && kVectors == 4) {
    const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(values[0], values[1]),
                                             _mm512_packs_epi32(values[2], values[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(order, bytes));
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
  } else {
    static_assert(kVectors == 2, "a block of 32");
    const __m512i words = pack_words(values[0], values[1]);
    const auto store = [](__m256i half, uint8_t* to) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
    };
    if (kForm == Form::kWords) {
      _mm512_storeu_si512(codes, words);
    } else if (kTerms == 1) {
      store(_mm512_cvtepi16_epi8(words), codes);
    } else {
      const __m512i high = _mm512_srai_epi16(_mm512_add_epi16(words, _mm512_set1_epi16(128)), 8);
      store(_mm512_cvtepi16_epi8(high), codes);
      store(_mm512_cvtepi16_epi8(words), codes + 32);
    }
    return _mm512_madd_epi16(words, _mm512_set1_epi16(1));
  }
}

// quantize_block of kBlocksAtOnce, to the bit; false, with nothing done, when one of them is of
// zeros or holds what is not finite.
template <int kVectors, Form kForm, int kTerms>
inline bool quantize_four(const float* x, uint8_t* codes, float* scales, int32_t* sums) {
  constexpr int kBlock = 16 * kVectors;
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[kBlocksAtOnce];
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    largest[b] = _mm512_setzero_si512();
    for (int v = 0; v < kVectors; ++v) {
      const __m512i bits = _mm512_loadu_si512(x + b * kBlock + 16 * v);
      largest[b] = _mm512_max_epu32(largest[b], _mm512_and_si512(bits, magnitude));
    }
  }
  // Bits of floats without their sign are ordered as the floats; infinities and NaN come last.
  const __m128i bits =
      reduce_four(largest, [](__m512i a, __m512i b) { return _mm512_max_epu32(a, b); });
  const __m128 amax = _mm_castsi128_ps(bits);
  const __m128 most = _mm_set1_ps(static_cast<float>(activation_max(kTerms)));
  const __m128 inverse = _mm_div_ps(most, amax);
  // Of a block of zeros or denormals the quotient is infinite.
  const __mmask8 is_usual = _mm_cmp_ps_mask(inverse, _mm_set1_ps(3.402823466e+38f), _CMP_LE_OQ) &
                            _mm_cmplt_epu32_mask(bits, _mm_set1_epi32(0x7f800000));
  if (is_usual != 15) return false;
  _mm_storeu_ps(scales, _mm_div_ps(amax, most));
  alignas(16) float factors[kBlocksAtOnce];
  _mm_store_ps(factors, inverse);
  __m512i totals[kBlocksAtOnce];
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    const __m512 factor = _mm512_set1_ps(factors[b]);
    __m512i values[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      values[v] =
          _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + b * kBlock + 16 * v), factor));
    }
    totals[b] = store_codes<kVectors, kForm, kTerms>(
        values, codes + b * kBlock * kCodeBytes<kForm, kTerms>);
  }
  const __m128i total =
      reduce_four(totals, [](__m512i a, __m512i b) { return _mm512_add_epi32(a, b); });
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), total);
  return true;
}

template <int kVectors, Form kForm, int kTerms>
inline void quantize_blocks(const float* x, int64_t blocks, uint8_t* codes, float* scales,
                            int32_t* sums) {
  constexpr int kBlock = 16 * kVectors;
  constexpr int kBytes = kBlock * kCodeBytes<kForm, kTerms>;
  const auto one = [&](int64_t i) {
    quantize_block<kVectors, kForm>(x + i * kBlock, kTerms, codes + i * kBytes, scales + i,
                                    sums + i);
  };
  int64_t b = 0;
  for (; b + kBlocksAtOnce <= blocks; b += kBlocksAtOnce) {
    if (quantize_four<kVectors, kForm, kTerms>(x + b * kBlock, codes + b * kBytes, scales + b,
                                               sums + b)) {
      continue;
    }
    for (int i = 0; i < kBlocksAtOnce; ++i) one(b + i);
  }
  for (; b < blocks; ++b) one(b);
}

}  // namespace

void quantize_row(const float* x, int64_t k, int64_t block, int terms, uint8_t* codes,
                  float* scales, int32_t* sums) {
  if (block == kByteBlock && terms == 1) {
    return quantize_blocks<4, Form::kBytes, 1>(x, k / 64, codes, scales, sums);
  }
  if (block == 32 && terms == 1) {
    return quantize_blocks<2, Form::kBytes, 1>(x, k / 32, codes, scales, sums);
  }
  if (block == 32) {
    return quantize_blocks<2, Form::kBytes, 2>(x, k / 32, codes, scales, sums);
  }
  for (int64_t b = 0; b < k / block; ++b) {
    uint8_t* out = codes + b * block * terms;
    if (block == kByteBlock) {
      quantize_block<4, Form::kBytes>(x + 64 * b, terms, out, scales + b, sums + b);
    } else {
      quantize_block<1, Form::kBytes>(x + 16 * b, terms, out, scales + b, sums + b);
    }
  }
}

void quantize_words(const float* x, int64_t k, int64_t, uint8_t* codes, float* scales,
                    int32_t* sums) {
  quantize_blocks<2, Form::kWords, 2>(x, k / 32, codes, scales, sums);
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
