#include <immintrin.h>
#include <stdint.h>

#include <type_traits>

#include "generator/kernels/matmul_dense_body.h"
#include "generator/kernels/matmul_twins.h"
#include "generator/kernels/strips_avx512.h"
#include "generator/kernels/vec_avx512.h"

// Integer layouts by VNNI: the unsigned codes of 16 rows x 4 k against four signed activation
// bytes, broadcast. Quantized rows here are, per block, `block` high bytes then `block` low bytes;
// of one term, `block` bytes.
namespace quarry::kernels::avx512 {
namespace {

constexpr int kRowsAtOnce = 6;
// Vectors of a block of kBytes in a panel made on the way, which only those have.
constexpr int kPanelVectors = kByteBlock / 4;
// Up to so many rows the codes are unpacked for each four of them; beyond, once into a panel.
constexpr int64_t kDirectRows = 8;

inline __m512 load_scales(const MatrixView& w, int64_t slot) {
  return w.float_scales != nullptr ? _mm512_load_ps(w.float_scales + slot)
                                   : load_halves(w.scales + slot);
}

inline __m512 offsets_of(const MatrixView& w, int64_t slot, __m512 scales) {
  return w.offsets != nullptr ? load_halves(w.offsets + slot)
                              : _mm512_mul_ps(scales, _mm512_set1_ps(-w.center));
}

// The vectors of one block of a strip, nibbles widened to bytes.
template <Layout kLayout, int kVectors>
inline void load_block(const uint8_t* codes, __m512i* vectors) {
  if (kLayout == Layout::kBytes) {
    for (int j = 0; j < kVectors; ++j) vectors[j] = load_codes(codes + 64 * j);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < kVectors / 2; ++j) {
      const __m512i both = load_codes(codes + 64 * j);
      vectors[j] = _mm512_and_si512(both, low);
      vectors[j + kVectors / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
  }
}

// kRows rows of x by one strip, straight from the packed codes. Two strips at once would need more
// registers than there are.
template <Layout kLayout, int kVectors, int kRows>
void integer_direct(const MatrixView& w, const ActivationView& x, int64_t row, int64_t strip,
                    float* y, int64_t ldy) {
  constexpr int kBlockBytes = (kLayout == Layout::kNibbles ? 32 : 64) * kVectors;
  const uint8_t* rows = x.codes + row * x.row_bytes;
  const float* scales = x.scales + row * x.scale_stride;
  const float* sums = x.sums + row * x.scale_stride;
  __m512 total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < w.blocks; ++b) {
    const uint8_t* values = rows + b * 4 * kVectors * 2;
    __m512i codes[kVectors];
    load_block<kLayout, kVectors>(w.codes + strip * w.strip_bytes + b * kBlockBytes, codes);
    __m512i high[kRows];
    __m512i low[kRows];
    for (int r = 0; r < kRows; ++r) high[r] = low[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* value = values + r * x.row_bytes + 4 * j;
        high[r] = _mm512_dpbusd_epi32(high[r], codes[j], broadcast4(value));
        low[r] = _mm512_dpbusd_epi32(low[r], codes[j], broadcast4(value + 4 * kVectors));
      }
    }
    const int64_t slot = (strip * w.blocks + b) * kStripRows;
    const __m512 scale_w = load_scales(w, slot);
    const __m512 offset_w = offsets_of(w, slot, scale_w);
    for (int r = 0; r < kRows; ++r) {
      high[r] = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), low[r]);
      const __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(scales[r * x.scale_stride + b]));
      total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[r]), scale, total[r]);
      const __m512 sum = _mm512_set1_ps(sums[r * x.scale_stride + b]);
      total[r] = _mm512_fmadd_ps(offset_w, sum, total[r]);
    }
  }
  const int64_t column = strip * kStripRows;
  for (int r = 0; r < kRows; ++r) {
    _mm512_mask_storeu_ps(y + (row + r) * ldy + column, column_mask(w.n - column),
                          scale_rows(w, strip, total[r]));
  }
}

template <Layout kLayout, int kVectors>
void integer_direct_strip(const MatrixView& w, const ActivationView& x, const TileRange& range,
                          int64_t strip, float* y, int64_t ldy) {
  int64_t row = range.row_begin;
  for (; row + 4 <= range.row_end; row += 4) {
    integer_direct<kLayout, kVectors, 4>(w, x, row, strip, y, ldy);
  }
  switch (range.row_end - row) {
    case 3:
      return integer_direct<kLayout, kVectors, 3>(w, x, row, strip, y, ldy);
    case 2:
      return integer_direct<kLayout, kVectors, 2>(w, x, row, strip, y, ldy);
    case 1:
      return integer_direct<kLayout, kVectors, 1>(w, x, row, strip, y, ldy);
    default:
      return;
  }
}

// Up to two strips with bytes for codes and float32 scales, [blocks][16] each.
struct Panel {
  const uint8_t* codes[2];
  const float* scales[2];
  const float* offsets[2];
};

template <int kVectors>
void unpack_nibbles(const uint8_t* source, int64_t blocks, uint8_t* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    __m512i codes[kVectors];
    load_block<Layout::kNibbles, kVectors>(source + b * 32 * kVectors, codes);
    for (int j = 0; j < kVectors; ++j) {
      _mm512_store_si512(reinterpret_cast<void*>(out + (b * kVectors + j) * 64), codes[j]);
    }
  }
}

Panel make_panel(const MatrixView& w, int64_t strip, int count, uint8_t* scratch) {
  Panel panel = {};
  const int64_t code_bytes = w.k * kStripRows;
  const int64_t scale_count = w.blocks * kStripRows;
  float* floats = reinterpret_cast<float*>(scratch + 2 * code_bytes);
  for (int s = 0; s < count; ++s) {
    const uint8_t* source = w.codes + (strip + s) * w.strip_bytes;
    panel.codes[s] = source;
    if (w.layout == Layout::kNibbles) {
      unpack_nibbles<8>(source, w.blocks, scratch + s * code_bytes);
      panel.codes[s] = scratch + s * code_bytes;
    }
    float* scales = floats + 2 * s * scale_count;
    float* offsets = scales + scale_count;
    for (int64_t i = 0; i < scale_count; i += kStripRows) {
      const int64_t slot = (strip + s) * scale_count + i;
      const __m512 scale = load_scales(w, slot);
      _mm512_store_ps(scales + i, scale);
      _mm512_store_ps(offsets + i, offsets_of(w, slot, scale));
    }
    panel.scales[s] = scales;
    panel.offsets[s] = offsets;
  }
  return panel;
}

// Blocks [begin, end) of a row.
struct BlockRange {
  int64_t begin;
  int64_t end;
};

// Where kRows rows of a product begin: of x, and of y at the panel's first column.
struct RowPointers {
  const uint8_t* codes;
  const float* scales;
  const float* sums;
  float* y;
};

// kRows rows of x by kStrips strips of a panel; what the blocks before these gave stands in y.
// `last_mask` has the columns of the last strip. kVectors of a panel made on the way:
// kPanelVectors.
template <int kVectors, int kRows, int kStrips>
inline __attribute__((always_inline)) void integer_micro(const MatrixView& w, const Panel& panel,
                                                         BlockRange blocks, const ActivationView& x,
                                                         const RowPointers& at, int64_t strip,
                                                         int64_t ldy, __mmask16 last_mask) {
  constexpr int kTerms = kVectors == kPanelVectors ? 1 : 2;
  __m512 total[kRows][kStrips];
  const auto mask_of = [last_mask](int s) {
    return s + 1 < kStrips ? static_cast<__mmask16>(0xffff) : last_mask;
  };
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) {
      total[r][s] = blocks.begin == 0
                        ? _mm512_setzero_ps()
                        : _mm512_maskz_loadu_ps(mask_of(s), at.y + r * ldy + s * kStripRows);
    }
  }
  for (int64_t b = blocks.begin; b < blocks.end; ++b) {
    __m512i dot[kRows][kStrips];
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kStrips; ++s) dot[r][s] = _mm512_setzero_si512();
    }
    for (int term = 0; term < kTerms; ++term) {
      if (term == 1) {
        for (int r = 0; r < kRows; ++r) {
          for (int s = 0; s < kStrips; ++s) dot[r][s] = _mm512_slli_epi32(dot[r][s], 8);
        }
      }
      const uint8_t* values = at.codes + (kTerms * b + term) * 4 * kVectors;
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) {
        __m512i codes[kStrips];
        for (int s = 0; s < kStrips; ++s) {
          codes[s] = load_codes(panel.codes[s] + (b * kVectors + j) * 64);
        }
        for (int r = 0; r < kRows; ++r) {
          const __m512i value = broadcast4(values + r * x.row_bytes + 4 * j);
          for (int s = 0; s < kStrips; ++s) {
            dot[r][s] = _mm512_dpbusd_epi32(dot[r][s], codes[s], value);
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) {
      const __m512 scale_w = _mm512_load_ps(panel.scales[s] + b * kStripRows);
      const __m512 offset_w = _mm512_load_ps(panel.offsets[s] + b * kStripRows);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m512 scale_x = _mm512_set1_ps(at.scales[r * x.scale_stride + b]);
        const __m512 sum = _mm512_set1_ps(at.sums[r * x.scale_stride + b]);
        const __m512 product = _mm512_cvtepi32_ps(dot[r][s]);
        if (kVectors == kPanelVectors) {
          total[r][s] =
              _mm512_fmadd_ps(scale_w, _mm512_fmadd_ps(product, scale_x, sum), total[r][s]);
          continue;
        }
        total[r][s] = _mm512_fmadd_ps(product, _mm512_mul_ps(scale_w, scale_x), total[r][s]);
        total[r][s] = _mm512_fmadd_ps(offset_w, sum, total[r][s]);
      }
    }
  }
  if (blocks.end == w.blocks && w.row_scales != nullptr) {
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kStrips; ++s) total[r][s] = scale_rows(w, strip + s, total[r][s]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) {
      _mm512_mask_storeu_ps(at.y + r * ldy + s * kStripRows, mask_of(s), total[r][s]);
    }
  }
}

template <int kVectors, int kStrips>
void integer_all_rows(const MatrixView& w, const Panel& panel, BlockRange blocks,
                      const ActivationView& x, const TileRange& range, int64_t strip, float* y,
                      int64_t ldy) {
  const int64_t column = strip * kStripRows;
  const __mmask16 last_mask = column_mask(w.n - column - (kStrips - 1) * kStripRows);
  RowPointers at = {x.codes + range.row_begin * x.row_bytes,
                    x.scales + range.row_begin * x.scale_stride,
                    x.sums + range.row_begin * x.scale_stride, y + range.row_begin * ldy + column};
  int64_t left = range.row_end - range.row_begin;
  for (; left >= kRowsAtOnce; left -= kRowsAtOnce) {
    integer_micro<kVectors, kRowsAtOnce, kStrips>(w, panel, blocks, x, at, strip, ldy, last_mask);
    at.codes += kRowsAtOnce * x.row_bytes;
    at.scales += kRowsAtOnce * x.scale_stride;
    at.sums += kRowsAtOnce * x.scale_stride;
    at.y += kRowsAtOnce * ldy;
  }
  const auto rest = [&](auto rows) {
    integer_micro<kVectors, decltype(rows)::value, kStrips>(w, panel, blocks, x, at, strip, ldy,
                                                            last_mask);
  };
  switch (left) {
    case 5:
      return rest(std::integral_constant<int, 5>());
    case 4:
      return rest(std::integral_constant<int, 4>());
    case 3:
      return rest(std::integral_constant<int, 3>());
    case 2:
      return rest(std::integral_constant<int, 2>());
    case 1:
      return rest(std::integral_constant<int, 1>());
    default:
      return;
  }
}

// Depth of a panel that stays in L1 beside six rows of x while all rows of the tile pass by.
constexpr int64_t kDepthAtOnce = 640;

template <int kVectors, int kStrips>
void integer_panel_tile(const MatrixView& w, const ActivationView& x, const TileRange& range,
                        int64_t strip, float* y, int64_t ldy, uint8_t* scratch) {
  const Panel panel = make_panel(w, strip, kStrips, scratch);
  const int64_t parts = (w.blocks * 4 * kVectors + kDepthAtOnce - 1) / kDepthAtOnce;
  for (int64_t part = 0; part < parts; ++part) {
    const BlockRange blocks = {w.blocks * part / parts, w.blocks * (part + 1) / parts};
    integer_all_rows<kVectors, kStrips>(w, panel, blocks, x, range, strip, y, ldy);
  }
}

template <int kVectors>
void integer_panel_tiles(const MatrixView& w, const ActivationView& x, const TileRange& range,
                         float* y, int64_t ldy, uint8_t* scratch) {
  int64_t strip = range.strip_begin;
  for (; strip + 2 <= range.strip_end; strip += 2) {
    integer_panel_tile<kVectors, 2>(w, x, range, strip, y, ldy, scratch);
  }
  if (strip == range.strip_end) return;
  integer_panel_tile<kVectors, 1>(w, x, range, strip, y, ldy, scratch);
}

template <Layout kLayout, int kVectors>
void integer_tile_as(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy, uint8_t* scratch) {
  if (range.row_end - range.row_begin > kDirectRows) {
    return integer_panel_tiles<kVectors>(w, x, range, y, ldy, scratch);
  }
  for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
    integer_direct_strip<kLayout, kVectors>(w, x, range, strip, y, ldy);
  }
}

// One block of 16 * kVectors elements, in bytes or as 16-bit integers in order.
enum class Form { kBytes, kWords };
template <int kVectors, Form kForm>
inline void quantize_block(const float* x, int terms, uint8_t* codes, float* scale, float* sum) {
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
  *sum = *scale * static_cast<float>(_mm512_reduce_add_epi32(total));
}

// kRows rows by kStrips strips, pairs of k.
template <int kRows, int kStrips>
inline void bfloat16_micro(const MatrixView& w, const ActivationView& x, int64_t row, int64_t strip,
                           float* y, int64_t ldy) {
  __m512 total[kRows][kStrips];
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kStrips; ++s) total[r][s] = _mm512_setzero_ps();
  }
  const uint8_t* values = x.codes + row * x.row_bytes;
  const uint8_t* codes = w.codes + strip * w.strip_bytes;
  const int64_t pairs = (w.k + 1) / 2;
  for (int64_t j = 0; j < pairs; ++j) {
    __m512bh weights[kStrips];
    for (int s = 0; s < kStrips; ++s) {
      weights[s] = reinterpret_cast<__m512bh>(load_codes(codes + s * w.strip_bytes + 64 * j));
    }
    for (int r = 0; r < kRows; ++r) {
      const __m512bh value =
          reinterpret_cast<__m512bh>(broadcast4(values + r * x.row_bytes + 4 * j));
      for (int s = 0; s < kStrips; ++s) {
        total[r][s] = _mm512_dpbf16_ps(total[r][s], weights[s], value);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kStrips; ++s) {
      const int64_t column = (strip + s) * kStripRows;
      _mm512_mask_storeu_ps(y + (row + r) * ldy + column, column_mask(w.n - column), total[r][s]);
    }
  }
}

template <int kRows, int kStrips>
void bfloat16_rows(const MatrixView& w, const ActivationView& x, const TileRange& range,
                   int64_t strip, float* y, int64_t ldy) {
  int64_t row = range.row_begin;
  for (; row + kRows <= range.row_end; row += kRows) {
    bfloat16_micro<kRows, kStrips>(w, x, row, strip, y, ldy);
  }
  for (; row + 4 <= range.row_end; row += 4) bfloat16_micro<4, kStrips>(w, x, row, strip, y, ldy);
  for (; row < range.row_end; ++row) bfloat16_micro<1, kStrips>(w, x, row, strip, y, ldy);
}

}  // namespace

void quantize_row(const float* x, int64_t k, int64_t block, int terms, uint8_t* codes,
                  float* scales, float* sums) {
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
                    float* sums) {
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

void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                  int64_t ldy, uint8_t* scratch) {
  if (w.layout == Layout::kNibbles) {
    integer_tile_as<Layout::kNibbles, 8>(w, x, range, y, ldy, scratch);
  } else if (w.block == kByteBlock) {
    // A product of one row takes the way of many: it knows the center in the sums.
    integer_panel_tiles<kPanelVectors>(w, x, range, y, ldy, scratch);
  } else if (w.block == 32) {
    integer_tile_as<Layout::kBytes, 8>(w, x, range, y, ldy, scratch);
  } else {
    integer_tile_as<Layout::kBytes, 4>(w, x, range, y, ldy, scratch);
  }
}

void bfloat16_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                   int64_t ldy, uint8_t*) {
  int64_t strip = range.strip_begin;
  for (; strip + 2 <= range.strip_end; strip += 2) {
    bfloat16_rows<12, 2>(w, x, range, strip, y, ldy);
  }
  if (strip < range.strip_end) bfloat16_rows<12, 1>(w, x, range, strip, y, ldy);
}

void float_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t*) {
  float_tile_body<VecAvx512, 12, 2>(w, x, range, y, ldy);
}

}  // namespace quarry::kernels::avx512
