#include <cmath>
#include <cstring>

#include "generator/kernels/matmul_twins.h"
#include "generator/quant/half.h"

// The plain versions: no SIMD, one output at a time. matmul_reference runs them.
namespace quarry::kernels::portable {
namespace {

using quant::half_to_float;

// Code of element `i` of block `b` in row `lane` of a strip.
int code_at(const MatrixView& w, const uint8_t* strip, int64_t b, int64_t i, int64_t lane) {
  if (w.layout == Layout::kBytes) return strip[b * 16 * w.block + 64 * (i / 4) + 4 * lane + i % 4];
  constexpr int kCodebookOrder[4] = {0, 2, 1, 3};
  const int64_t byte = w.layout == Layout::kCodebook ? kCodebookOrder[i % 4] : i % 4;
  const int64_t half = w.block / 2;
  const int pair = strip[b * 8 * w.block + 64 * ((i % half) / 4) + 4 * lane + byte];
  const int code = i < half ? pair & 15 : pair >> 4;
  return w.layout == Layout::kNibbles ? code : w.codebook[code];
}

float scale_at(const MatrixView& w, int64_t slot) {
  return w.float_scales == nullptr ? half_to_float(w.scales[slot]) : w.float_scales[slot];
}

float row_scale(const MatrixView& w, int64_t strip, int64_t lane) {
  return w.row_scales == nullptr ? 1.0f : w.row_scales[strip * kStripRows + lane];
}

float integer_dot(const MatrixView& w, int64_t strip, int64_t lane, const ActivationView& x,
                  int64_t row) {
  const uint8_t* codes = w.codes + strip * w.strip_bytes;
  const int16_t* values = reinterpret_cast<const int16_t*>(x.codes + row * x.row_bytes);
  float y = 0.0f;
  for (int64_t b = 0; b < w.blocks; ++b) {
    const int64_t place = row * x.scale_stride + b;
    int32_t total = x.centers != nullptr ? x.centers[place] : 0;
    for (int64_t i = 0; i < w.block; ++i) {
      total += code_at(w, codes, b, i, lane) * values[b * w.block + i];
    }
    const int64_t slot = scale_slot(w, strip, b, lane);
    y += static_cast<float>(total) * (scale_at(w, slot) * x.scales[place]);
    if (w.offsets != nullptr) y += half_to_float(w.offsets[slot]) * x.sums[place];
  }
  return y * row_scale(w, strip, lane);
}

// Place of element `i` of a block of kWords among the block's integers.
int64_t word_slot(int64_t i, int64_t lane) {
  return i / 4 * 64 + i % 2 * 32 + 2 * lane + i % 4 / 2;
}

float words_dot(const MatrixView& w, int64_t strip, int64_t lane, const ActivationView& x,
                int64_t row) {
  const int16_t* codes = reinterpret_cast<const int16_t*>(w.codes + strip * w.strip_bytes);
  const int16_t* values = reinterpret_cast<const int16_t*>(x.codes + row * x.row_bytes);
  float y = 0.0f;
  for (int64_t b = 0; b < w.blocks; ++b) {
    int32_t total = 0;
    for (int64_t i = 0; i < w.block; ++i) {
      total += codes[b * w.block * kStripRows + word_slot(i, lane)] * values[b * w.block + i];
    }
    const float scale = w.float_scales[(strip * w.blocks + b) * kStripRows + lane];
    y += static_cast<float>(total) * (scale * x.scales[row * x.scale_stride + b]);
  }
  return y;
}

float bfloat16_dot(const MatrixView& w, int64_t strip, int64_t lane, const ActivationView& x,
                   int64_t row) {
  const uint16_t* codes = reinterpret_cast<const uint16_t*>(w.codes + strip * w.strip_bytes);
  const uint16_t* values = reinterpret_cast<const uint16_t*>(x.codes + row * x.row_bytes);
  float y = 0.0f;
  for (int64_t j = 0; j < w.k; ++j) {
    const uint16_t weight = codes[(j / 2) * 2 * kStripRows + 2 * lane + j % 2];
    y += quant::bfloat16_to_float(weight) * quant::bfloat16_to_float(values[j]);
  }
  return y;
}

float float_dot(const MatrixView& w, int64_t strip, int64_t lane, const ActivationView& x,
                int64_t row) {
  const float* codes = reinterpret_cast<const float*>(w.codes + strip * w.strip_bytes);
  const float* values = reinterpret_cast<const float*>(x.codes + row * x.row_bytes);
  float y = 0.0f;
  for (int64_t j = 0; j < w.k; ++j) y += codes[j * kStripRows + lane] * values[j];
  return y;
}

template <typename Dot>
void for_each_output(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                     int64_t ldy, const Dot& dot) {
  for (int64_t row = range.row_begin; row < range.row_end; ++row) {
    for (int64_t strip = range.strip_begin; strip < range.strip_end; ++strip) {
      for (int64_t lane = 0; lane < kStripRows && strip * kStripRows + lane < w.n; ++lane) {
        y[row * ldy + strip * kStripRows + lane] = dot(w, strip, lane, x, row);
      }
    }
  }
}

// Element [16 strip + lane, k] of W.
float weight_at(const MatrixView& w, int64_t strip, int64_t lane, int64_t k) {
  const uint8_t* codes = w.codes + strip * w.strip_bytes;
  if (w.layout == Layout::kF32) {
    return reinterpret_cast<const float*>(codes)[k * kStripRows + lane];
  }
  if (w.layout == Layout::kBF16) {
    const auto* values = reinterpret_cast<const uint16_t*>(codes);
    return quant::bfloat16_to_float(values[(k / 2) * 2 * kStripRows + 2 * lane + k % 2]);
  }
  const int64_t b = k / w.block;
  const int64_t slot = scale_slot(w, strip, b, lane);
  const float scale = half_to_float(w.scales[slot]);
  const float code = static_cast<float>(code_at(w, codes, b, k % w.block, lane));
  const float value = w.offsets == nullptr ? scale * (code - w.center)
                                           : scale * code + half_to_float(w.offsets[slot]);
  return value * row_scale(w, strip, lane);
}

// Values as integers of at most `most`; returns their scale. store(i, integer) keeps one.
template <int kCount, typename Store>
float round_integers(const float (&values)[kCount], int most, const Store& store) {
  float largest = 0.0f;
  for (const float value : values) largest = std::fmax(largest, std::fabs(value));
  const float inverse = largest > 0.0f ? static_cast<float>(most) / largest : 0.0f;
  const bool usable = std::isfinite(inverse);
  for (int i = 0; i < kCount; ++i) {
    store(i, usable ? static_cast<int>(std::nearbyint(values[i] * inverse)) : 0);
  }
  return largest / static_cast<float>(most);
}

// Rows 16 strip .. + kRows - 1 and columns k .. k + 15 of W as integers of at most `most` with a
// scale for each column; store(row, column, integer) keeps one.
template <int kRows, typename Store>
void transpose_integers(const MatrixView& w, int64_t strip, int64_t k, int most, float* scales,
                        const Store& store) {
  for (int64_t column = 0; column < kStripRows; ++column) {
    float values[kRows] = {};
    for (int64_t i = 0; i < kRows; ++i) {
      if (strip + i / kStripRows < w.strips && k + column < w.k) {
        values[i] = weight_at(w, strip + i / kStripRows, i % kStripRows, k + column);
      }
    }
    scales[column] =
        round_integers(values, most, [&](int i, int value) { store(i, column, value); });
  }
}

// Place of element `i` of a block of kBytes.
int64_t byte_slot(int64_t i, int64_t lane) { return 64 * (i / 4) + 4 * lane + i % 4; }

}  // namespace

void transpose_tile(const MatrixView& w, int64_t strip, int64_t k, Layout layout, uint8_t* out) {
  for (int64_t lane = 0; lane < kStripRows; ++lane) {
    for (int64_t i = 0; i < kStripRows; ++i) {
      const float value = k + i < w.k ? weight_at(w, strip, lane, k + i) : 0.0f;
      if (layout == Layout::kF32) {
        reinterpret_cast<float*>(out)[lane * kStripRows + i] = value;
      } else {
        reinterpret_cast<uint16_t*>(out)[(lane / 2) * 2 * kStripRows + 2 * i + lane % 2] =
            quant::float_to_bfloat16(value);
      }
    }
  }
}

void transpose_words(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales) {
  int16_t* out = reinterpret_cast<int16_t*>(codes);
  const auto store = [out](int64_t i, int64_t column, int value) {
    out[word_slot(i, column)] = static_cast<int16_t>(value);
  };
  transpose_integers<kWordBlock>(w, strip, k, kWordMax, scales, store);
}

void transpose_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales) {
  const auto store = [codes](int64_t i, int64_t column, int value) {
    codes[byte_slot(i, column)] = static_cast<uint8_t>(value + kByteCenter);
  };
  transpose_integers<kByteBlock>(w, strip, k, kByteMax, scales, store);
}

void round_bytes(const MatrixView& w, int64_t strip, int64_t k, uint8_t* codes, float* scales) {
  for (int64_t lane = 0; lane < kStripRows; ++lane) {
    float values[kByteBlock] = {};
    for (int64_t i = 0; i < kByteBlock && k + i < w.k; ++i) {
      values[i] = weight_at(w, strip, lane, k + i);
    }
    scales[lane] = round_integers(values, kByteMax, [&](int i, int value) {
      codes[byte_slot(i, lane)] = static_cast<uint8_t>(value + kByteCenter);
    });
  }
}

void quantize_row(const float* x, int64_t k, int64_t block, int terms, uint8_t* codes,
                  float* scales, int32_t* sums) {
  const auto most = static_cast<float>(activation_max(terms));
  int16_t* out = reinterpret_cast<int16_t*>(codes);
  for (int64_t b = 0; b < k / block; ++b) {
    const float* values = x + b * block;
    float largest = 0.0f;
    bool finite = true;
    for (int64_t i = 0; i < block; ++i) {
      finite = finite && std::isfinite(values[i]);
      largest = std::fmax(largest, std::fabs(values[i]));
    }
    const float inverse = finite && largest > 0.0f ? most / largest : 0.0f;
    // A block so small that the quotient overflows counts as 0.
    const bool usable = inverse > 0.0f && std::isfinite(inverse);
    scales[b] = finite ? largest / most : std::nanf("");
    int32_t total = 0;
    for (int64_t i = 0; i < block; ++i) {
      const int32_t value =
          usable ? static_cast<int32_t>(std::nearbyint(values[i] * inverse)) : int32_t{0};
      out[b * block + i] = static_cast<int16_t>(value);
      total += value;
    }
    sums[b] = total;
  }
}

void quantize_words(const float* x, int64_t k, int64_t block, uint8_t* codes, float* scales,
                    int32_t* sums) {
  quantize_row(x, k, block, 2, codes, scales, sums);
}

void bfloat16_row(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; ++i) out[i] = quant::float_to_bfloat16(x[i]);
  if (k % 2 == 1) out[k] = 0;
}

void integer_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                  int64_t ldy, uint8_t*) {
  for_each_output(w, x, range, y, ldy, integer_dot);
}

void codebook_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                   int64_t ldy, uint8_t*) {
  for_each_output(w, x, range, y, ldy, integer_dot);
}

void bfloat16_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                   int64_t ldy, uint8_t*) {
  for_each_output(w, x, range, y, ldy, bfloat16_dot);
}

void words_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t*) {
  for_each_output(w, x, range, y, ldy, words_dot);
}

void float_tile(const MatrixView& w, const ActivationView& x, const TileRange& range, float* y,
                int64_t ldy, uint8_t*) {
  for_each_output(w, x, range, y, ldy, float_dot);
}

void decode_row(const MatrixView& w, int64_t row, float* out) {
  for (int64_t k = 0; k < w.k; ++k) out[k] = weight_at(w, row / kStripRows, row % kStripRows, k);
}

}  // namespace quarry::kernels::portable
