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
// Vectors of a block of 64.
constexpr int kLongVectors = kByteBlock / 4;
// Up to so many rows the codes are unpacked for each direct_rows(); beyond, once into a panel.
constexpr int64_t kDirectRows = 8;

// What a kernel is made for.
template <Layout kTheLayout, int kTheVectors, int kTheTerms, bool kHasOffsets>
struct Kind {
  static constexpr Layout kLayout = kTheLayout;
  static constexpr int kVectors = kTheVectors;  // of a block, four k each
  static constexpr int kTerms = kTheTerms;      // of an activation
  static constexpr bool kOffsets = kHasOffsets;
};

inline __m512 load_scales(const MatrixView& w, int64_t slot) {
  return w.float_scales != nullptr ? _mm512_load_ps(w.float_scales + slot)
                                   : load_halves(w.scales + slot);
}

// The bytes that the nibbles of a codebook stand for, in each quarter of a vector.
inline __m512i load_byte_codebook(const MatrixView& w) {
  alignas(16) uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(w.codebook[i]);
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// Vectors of a block that one packed vector holds: those of nibbles are half a block apart.
constexpr int vectors_in_one(Layout layout) { return layout == Layout::kBytes ? 1 : 2; }

// One packed vector as bytes.
template <Layout kLayout>
inline void load_vectors(const uint8_t* codes, __m512i codebook, __m512i* vectors) {
  vectors[0] = load_codes(codes);
  if (kLayout == Layout::kBytes) return;
  const __m512i low = _mm512_set1_epi8(15);
  vectors[1] = _mm512_and_si512(_mm512_srli_epi16(vectors[0], 4), low);
  vectors[0] = _mm512_and_si512(vectors[0], low);
  if (kLayout != Layout::kByteCodebook) return;
  for (int i = 0; i < 2; ++i) vectors[i] = _mm512_shuffle_epi8(codebook, vectors[i]);
}

// What a strip's sums become at the end.
inline __m512 finish(const MatrixView& w, int64_t strip, __m512 total) {
  total = scale_rows(w, strip, total);
  if (w.bias == nullptr) return total;
  const int64_t column = strip * kStripRows;
  return _mm512_add_ps(total, _mm512_maskz_loadu_ps(column_mask(w.n - column), w.bias + column));
}

// Where kRows rows of a product begin: of x, and of y at the strip's first column.
struct RowPointers {
  const uint8_t* codes;
  const float* scales;
  const float* sums;
  const int32_t* centers;
  float* y;

  void move(const ActivationView& x, int64_t ldy, int64_t rows) {
    codes += rows * x.row_bytes;
    scales += rows * x.scale_stride;
    if (sums != nullptr) sums += rows * x.scale_stride;
    if (centers != nullptr) centers += rows * x.scale_stride;
    y += rows * ldy;
  }
};

inline RowPointers rows_at(const ActivationView& x, int64_t row, int64_t strip, float* y,
                           int64_t ldy) {
  RowPointers at = {x.codes, x.scales, x.sums, x.centers, y + strip * kStripRows};
  at.move(x, ldy, row);
  return at;
}

// What the integer sum of a row's block begins with.
template <bool kOffsets>
inline __m512i first_sum(const RowPointers& at, int64_t place) {
  return kOffsets ? _mm512_setzero_si512() : _mm512_set1_epi32(at.centers[place]);
}

// Bytes of codes that integer_direct asks L2 for ahead of use: with several rows at work the CPU
// does not look far enough into the code to keep memory busy. Past the end nothing happens.
constexpr int64_t kAhead = 8192;

// kRows rows of x by one strip, straight from the packed codes. Two strips at once would need more
// registers than there are.
template <typename K, int kRows>
void integer_direct(const MatrixView& w, const ActivationView& x, const RowPointers& at,
                    int64_t strip, int64_t ldy) {
  constexpr int kVectors = K::kVectors;
  constexpr int kInOne = vectors_in_one(K::kLayout);
  constexpr int kPacked = kVectors / kInOne;
  // Independent sums of one row: with one or two rows a product would wait for the one before.
  constexpr int kSums = K::kTerms == 1 && kRows <= 2 ? kInOne : 1;
  const __m512i codebook =
      K::kLayout == Layout::kByteCodebook ? load_byte_codebook(w) : _mm512_setzero_si512();
  __m512 total[kRows];
  for (int r = 0; r < kRows; ++r) total[r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < w.blocks; ++b) {
    const uint8_t* values = at.codes + b * 4 * kVectors * K::kTerms;
    const uint8_t* packed = w.codes + strip * w.strip_bytes + b * 64 * kPacked;
    if (kRows > 1) {
      for (int j = 0; j < kPacked; ++j) _mm_prefetch(packed + kAhead + 64 * j, _MM_HINT_T1);
    }
    __m512i high[kRows];
    __m512i low[kRows][kSums];
    for (int r = 0; r < kRows; ++r) {
      high[r] = _mm512_setzero_si512();
      low[r][0] = first_sum<K::kOffsets>(at, r * x.scale_stride + b);
      for (int i = 1; i < kSums; ++i) low[r][i] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int j = 0; j < kPacked; ++j) {
      __m512i codes[kInOne];
      load_vectors<K::kLayout>(packed + 64 * j, codebook, codes);
      for (int i = 0; i < kInOne; ++i) {
        for (int r = 0; r < kRows; ++r) {
          const uint8_t* value = values + r * x.row_bytes + 4 * (j + i * kPacked);
          if (K::kTerms == 2) {
            high[r] = _mm512_dpbusd_epi32(high[r], codes[i], broadcast4(value));
            value += 4 * kVectors;
          }
          __m512i& sum = low[r][i % kSums];
          sum = _mm512_dpbusd_epi32(sum, codes[i], broadcast4(value));
        }
      }
    }
    const int64_t slot = scale_slot(w, strip, b, 0);
    const __m512 scale_w = load_scales(w, slot);
    for (int r = 0; r < kRows; ++r) {
      __m512i sum = low[r][0];
      for (int i = 1; i < kSums; ++i) sum = _mm512_add_epi32(sum, low[r][i]);
      if (K::kTerms == 2) sum = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), sum);
      const int64_t place = r * x.scale_stride + b;
      const __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(at.scales[place]));
      total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total[r]);
      if (!K::kOffsets) continue;
      total[r] =
          _mm512_fmadd_ps(load_halves(w.offsets + slot), _mm512_set1_ps(at.sums[place]), total[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    _mm512_mask_storeu_ps(at.y + r * ldy, column_mask(w.n - strip * kStripRows),
                          finish(w, strip, total[r]));
  }
}

// Rows that share a look at the codes: as many as there are registers for.
template <typename K>
constexpr int direct_rows() {
  return K::kTerms == 1 || K::kLayout == Layout::kBytes ? 8 : 4;
}

// The last rows, fewer than direct_rows().
template <typename K, int kRows>
void integer_direct_rest(const MatrixView& w, const ActivationView& x, const RowPointers& at,
                         int64_t strip, int64_t ldy, int64_t left) {
  if (left == kRows) return integer_direct<K, kRows>(w, x, at, strip, ldy);
  if constexpr (kRows > 1) integer_direct_rest<K, kRows - 1>(w, x, at, strip, ldy, left);
}

template <typename K>
void integer_direct_strip(const MatrixView& w, const ActivationView& x, const TileRange& range,
                          int64_t strip, float* y, int64_t ldy) {
  constexpr int kRows = direct_rows<K>();
  RowPointers at = rows_at(x, range.row_begin, strip, y, ldy);
  int64_t left = range.row_end - range.row_begin;
  for (; left >= kRows; left -= kRows) {
    integer_direct<K, kRows>(w, x, at, strip, ldy);
    at.move(x, ldy, kRows);
  }
  if (left > 0) integer_direct_rest<K, kRows - 1>(w, x, at, strip, ldy, left);
}

// Up to two strips with bytes for codes and float32 scales, [blocks][16] each.
struct Panel {
  const uint8_t* codes[2];
  const float* scales[2];
  const float* offsets[2];
};

template <typename K>
void unpack_nibbles(const MatrixView& w, const uint8_t* source, uint8_t* out) {
  const __m512i codebook =
      K::kLayout == Layout::kByteCodebook ? load_byte_codebook(w) : _mm512_setzero_si512();
  constexpr int kPacked = K::kVectors / 2;
  for (int64_t b = 0; b < w.blocks; ++b) {
    for (int j = 0; j < kPacked; ++j) {
      __m512i codes[2];
      load_vectors<K::kLayout>(source + (b * kPacked + j) * 64, codebook, codes);
      for (int i = 0; i < 2; ++i) {
        _mm512_store_si512(out + (b * K::kVectors + j + i * kPacked) * 64, codes[i]);
      }
    }
  }
}

template <typename K>
Panel make_panel(const MatrixView& w, int64_t strip, int count, uint8_t* scratch) {
  Panel panel = {};
  const int64_t code_bytes = w.k * kStripRows;
  const int64_t scale_count = w.blocks * kStripRows;
  float* floats = reinterpret_cast<float*>(scratch + 2 * code_bytes);
  for (int s = 0; s < count; ++s) {
    const uint8_t* source = w.codes + (strip + s) * w.strip_bytes;
    panel.codes[s] = source;
    if (K::kLayout != Layout::kBytes) {
      unpack_nibbles<K>(w, source, scratch + s * code_bytes);
      panel.codes[s] = scratch + s * code_bytes;
    }
    if (w.float_scales != nullptr) {
      panel.scales[s] = w.float_scales + (strip + s) * scale_count;
      continue;
    }
    float* scales = floats + 2 * s * scale_count;
    float* offsets = scales + scale_count;
    for (int64_t b = 0; b < w.blocks; ++b) {
      const int64_t slot = scale_slot(w, strip + s, b, 0);
      _mm512_store_ps(scales + b * kStripRows, load_halves(w.scales + slot));
      if (K::kOffsets) {
        _mm512_store_ps(offsets + b * kStripRows, load_halves(w.offsets + slot));
      }
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

// kRows rows of x by kStrips strips of a panel; what the blocks before these gave stands in y.
// `last_mask` has the columns of the last strip.
template <typename K, int kRows, int kStrips>
inline __attribute__((always_inline)) void integer_micro(const MatrixView& w, const Panel& panel,
                                                         BlockRange blocks, const ActivationView& x,
                                                         const RowPointers& at, int64_t strip,
                                                         int64_t ldy, __mmask16 last_mask) {
  constexpr int kVectors = K::kVectors;
  constexpr int kTerms = K::kTerms;
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
    // The rows that come next, into L1.
    for (int r = 0; r < kRows; ++r) {
      _mm_prefetch(reinterpret_cast<const char*>(at.codes + (kRows + r) * x.row_bytes +
                                                 kTerms * b * 4 * kVectors),
                   _MM_HINT_T0);
    }
    __m512i dot[kRows][kStrips];
    for (int r = 0; r < kRows; ++r) {
      const __m512i first =
          kTerms == 1 ? first_sum<K::kOffsets>(at, r * x.scale_stride + b) : _mm512_setzero_si512();
      for (int s = 0; s < kStrips; ++s) dot[r][s] = first;
    }
    for (int term = 0; term < kTerms; ++term) {
      if (term == 1) {
        for (int r = 0; r < kRows; ++r) {
          for (int s = 0; s < kStrips; ++s) {
            dot[r][s] = _mm512_slli_epi32(dot[r][s], 8);
            if (K::kOffsets) continue;
            dot[r][s] =
                _mm512_add_epi32(dot[r][s], first_sum<K::kOffsets>(at, r * x.scale_stride + b));
          }
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
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const int64_t place = r * x.scale_stride + b;
        const __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(at.scales[place]));
        total[r][s] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][s]), scale, total[r][s]);
        if (!K::kOffsets) continue;
        const __m512 offset_w = _mm512_load_ps(panel.offsets[s] + b * kStripRows);
        total[r][s] = _mm512_fmadd_ps(offset_w, _mm512_set1_ps(at.sums[place]), total[r][s]);
      }
    }
  }
  if (blocks.end == w.blocks && (w.row_scales != nullptr || w.bias != nullptr)) {
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kStrips; ++s) total[r][s] = finish(w, strip + s, total[r][s]);
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

template <typename K, int kStrips>
void integer_all_rows(const MatrixView& w, const Panel& panel, BlockRange blocks,
                      const ActivationView& x, const TileRange& range, int64_t strip, float* y,
                      int64_t ldy) {
  const __mmask16 last_mask = column_mask(w.n - (strip + kStrips - 1) * kStripRows);
  RowPointers at = rows_at(x, range.row_begin, strip, y, ldy);
  int64_t left = range.row_end - range.row_begin;
  for (; left >= kRowsAtOnce; left -= kRowsAtOnce) {
    integer_micro<K, kRowsAtOnce, kStrips>(w, panel, blocks, x, at, strip, ldy, last_mask);
    at.move(x, ldy, kRowsAtOnce);
  }
  const auto rest = [&](auto rows) {
    integer_micro<K, decltype(rows)::value, kStrips>(w, panel, blocks, x, at, strip, ldy,
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

// Depth of a panel while all rows of the tile pass by. It comes from L2, which costs less than the
// sums that go to y and back between two parts.
constexpr int64_t kDepthAtOnce = 2048;

template <typename K, int kStrips>
void integer_panel_tile(const MatrixView& w, const ActivationView& x, const TileRange& range,
                        int64_t strip, float* y, int64_t ldy, uint8_t* scratch) {
  const Panel panel = make_panel<K>(w, strip, kStrips, scratch);
  const int64_t parts = (w.blocks * 4 * K::kVectors + kDepthAtOnce - 1) / kDepthAtOnce;
  for (int64_t part = 0; part < parts; ++part) {
    const BlockRange blocks = {w.blocks * part / parts, w.blocks * (part + 1) / parts};
    integer_all_rows<K, kStrips>(w, panel, blocks, x, range, strip, y, ldy);
  }
}

template <typename K>
void integer_panel_tiles(const MatrixView& w, const ActivationView& x, const TileRange& range,
                         float* y, int64_t ldy, uint8_t* scratch) {
  int64_t strip = range.strip_begin;
  for (; strip + 2 <= range.strip_end; strip += 2) {
    integer_panel_tile<K, 2>(w, x, range, strip, y, ldy, scratch);
  }
  if (strip == range.strip_end) return;
  integer_panel_tile<K, 1>(w, x, range, strip, y, ldy, scratch);
}

template <typename K>
void integer_tile_as(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy, uint8_t* scratch) {
  if (range.row_end - range.row_begin > kDirectRows) {
    return integer_panel_tiles<K>(w, x, range, y, ldy, scratch);
  }
  for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
    integer_direct_strip<K>(w, x, range, strip, y, ldy);
  }
}

template <Layout kLayout, int kVectors>
void integer_tile_of(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy, uint8_t* scratch) {
  if (x.terms == 1 && w.offsets != nullptr) {
    integer_tile_as<Kind<kLayout, kVectors, 1, true>>(w, x, range, y, ldy, scratch);
  } else if (x.terms == 1) {
    integer_tile_as<Kind<kLayout, kVectors, 1, false>>(w, x, range, y, ldy, scratch);
  } else if (w.offsets != nullptr) {
    integer_tile_as<Kind<kLayout, kVectors, 2, true>>(w, x, range, y, ldy, scratch);
  } else {
    integer_tile_as<Kind<kLayout, kVectors, 2, false>>(w, x, range, y, ldy, scratch);
  }
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
      _mm512_mask_storeu_ps(y + (row + r) * ldy + column, column_mask(w.n - column),
                            finish(w, strip + s, total[r][s]));
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

void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                  int64_t ldy, uint8_t* scratch) {
  if (w.layout == Layout::kNibbles) {
    integer_tile_of<Layout::kNibbles, 8>(w, x, range, y, ldy, scratch);
  } else if (w.layout == Layout::kByteCodebook && w.block == kByteBlock) {
    integer_tile_as<Kind<Layout::kByteCodebook, kLongVectors, 1, false>>(w, x, range, y, ldy,
                                                                         scratch);
  } else if (w.layout == Layout::kByteCodebook) {
    integer_tile_as<Kind<Layout::kByteCodebook, 8, 1, false>>(w, x, range, y, ldy, scratch);
  } else if (w.block == kByteBlock) {
    integer_tile_as<Kind<Layout::kBytes, kLongVectors, 1, false>>(w, x, range, y, ldy, scratch);
  } else if (w.block == 32) {
    integer_tile_of<Layout::kBytes, 8>(w, x, range, y, ldy, scratch);
  } else {
    integer_tile_of<Layout::kBytes, 4>(w, x, range, y, ldy, scratch);
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
