#include <immintrin.h>
#include <stdint.h>

#include "generator/quant/four_bit_twins.h"

namespace quarry::avx512 {
namespace {

inline float decode_one(const float* codebook, float absmax, const uint8_t* codes, int64_t i) {
  const uint8_t pair = codes[i / 2];
  return codebook[i % 2 == 0 ? pair >> 4 : pair & 15] * absmax;
}

}  // namespace

void decode_four_bit(const float* codebook, const float* absmax, int64_t block_size,
                     const uint8_t* codes, int64_t begin, int64_t end, float* destination) {
  const __m512 values = _mm512_loadu_ps(codebook);
  const __m512i first_half =
      _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second_half = _mm512_add_epi32(first_half, _mm512_set1_epi32(8));
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / block_size;
    const int64_t block_end = (block + 1) * block_size < end ? (block + 1) * block_size : end;
    const __m512 scale = _mm512_set1_ps(absmax[block]);
    if (i % 2 != 0) {
      destination[i - begin] = decode_one(codebook, absmax[block], codes, i);
      ++i;
    }
    for (; i + 32 <= block_end; i += 32) {
      const __m512i pairs =
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i / 2)));
      // Of a place, permutexvar reads the low four bits alone.
      const __m512 even = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), values);
      const __m512 odd = _mm512_permutexvar_ps(pairs, values);
      _mm512_storeu_ps(destination + (i - begin),
                       _mm512_mul_ps(_mm512_permutex2var_ps(even, first_half, odd), scale));
      _mm512_storeu_ps(destination + (i - begin) + 16,
                       _mm512_mul_ps(_mm512_permutex2var_ps(even, second_half, odd), scale));
    }
    for (; i < block_end; ++i)
      destination[i - begin] = decode_one(codebook, absmax[block], codes, i);
  }
}

}  // namespace quarry::avx512
