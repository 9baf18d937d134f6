#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/packed_strips.h"
#include "generator/quant/blocks.h"
#include "generator/quant/half.h"

namespace quarry::kernels {
namespace {

using quant::half_to_float;

// Up to 256 consecutive elements of a row as unsigned codes with scale and offset per sub-block.
struct CodedBlock {
  uint8_t codes[256];
  float scales[16];
  float offsets[16];
};

// How a GGUF type maps to an integer layout. `center` < 0: offsets are stored.
struct IntegerFormat {
  Layout layout;
  int64_t source_block;  // elements in a block of the file
  int64_t block;         // elements that share one scale
  float center;
  void (*decode)(const uint8_t* source, CodedBlock* out);
};

template <typename Block>
Block read_block(const uint8_t* source) {
  Block block;
  std::memcpy(&block, source, sizeof(block));
  return block;
}

// Codes of Q4_0 .. Q5_1: 32 nibbles, with fifth bits when `fifth_bits` is given.
void decode_nibbles(const uint8_t* nibbles, const uint8_t* fifth_bits, uint8_t* codes) {
  uint32_t fifth = 0;
  if (fifth_bits != nullptr) std::memcpy(&fifth, fifth_bits, sizeof(fifth));
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<uint8_t>((nibbles[i] & 15) | ((fifth >> i) & 1) << 4);
    codes[i + 16] = static_cast<uint8_t>((nibbles[i] >> 4) | ((fifth >> (i + 16)) & 1) << 4);
  }
}

void decode_q4_0(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ4_0>(source);
  decode_nibbles(block.qs, nullptr, out->codes);
  out->scales[0] = half_to_float(block.d);
}

void decode_q4_1(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ4_1>(source);
  decode_nibbles(block.qs, nullptr, out->codes);
  out->scales[0] = half_to_float(block.d);
  out->offsets[0] = half_to_float(block.m);
}

void decode_q5_0(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ5_0>(source);
  decode_nibbles(block.qs, block.qh, out->codes);
  out->scales[0] = half_to_float(block.d);
}

void decode_q5_1(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ5_1>(source);
  decode_nibbles(block.qs, block.qh, out->codes);
  out->scales[0] = half_to_float(block.d);
  out->offsets[0] = half_to_float(block.m);
}

void decode_q8_0(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ8_0>(source);
  for (int i = 0; i < 32; ++i) out->codes[i] = static_cast<uint8_t>(block.qs[i] + 128);
  out->scales[0] = half_to_float(block.d);
}

// The 6-bit scales and minimums of Q4_K and Q5_K (layout in quant/blocks.h).
template <typename Block>
void decode_k_scales(const Block& block, CodedBlock* out) {
  const float d = half_to_float(block.d);
  const float dmin = half_to_float(block.dmin);
  for (int s = 0; s < 8; ++s) {
    int scale;
    int minimum;
    if (s < 4) {
      scale = block.scales[s] & 63;
      minimum = block.scales[s + 4] & 63;
    } else {
      scale = (block.scales[s + 4] & 15) | (block.scales[s - 4] >> 6) << 4;
      minimum = (block.scales[s + 4] >> 4) | (block.scales[s] >> 6) << 4;
    }
    out->scales[s] = d * static_cast<float>(scale);
    out->offsets[s] = -dmin * static_cast<float>(minimum);
  }
}

void decode_q4_k(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ4_K>(source);
  decode_k_scales(block, out);
  for (int s = 0; s < 8; ++s) {
    const int shift = (s & 1) * 4;
    for (int i = 0; i < 32; ++i) {
      out->codes[32 * s + i] = (block.qs[32 * (s / 2) + i] >> shift) & 15;
    }
  }
}

void decode_q5_k(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ5_K>(source);
  decode_k_scales(block, out);
  for (int s = 0; s < 8; ++s) {
    const int shift = (s & 1) * 4;
    for (int i = 0; i < 32; ++i) {
      const int low = (block.qs[32 * (s / 2) + i] >> shift) & 15;
      out->codes[32 * s + i] = static_cast<uint8_t>(low | ((block.qh[i] >> s) & 1) << 4);
    }
  }
}

void decode_q6_k(const uint8_t* source, CodedBlock* out) {
  const auto block = read_block<quant::BlockQ6_K>(source);
  const float d = half_to_float(block.d);
  for (int s = 0; s < 16; ++s) out->scales[s] = d * static_cast<float>(block.scales[s]);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int group = (i / 32) % 4;
    const int l = i % 32;
    const int low = (block.ql[64 * half + 32 * (group & 1) + l] >> (group < 2 ? 0 : 4)) & 15;
    const int high = (block.qh[32 * half + l] >> (2 * group)) & 3;
    out->codes[i] = static_cast<uint8_t>(low | high << 4);
  }
}

// Null for dense types.
const IntegerFormat* integer_format(WeightType type) {
  static const IntegerFormat q4_0 = {Layout::kNibbles, 32, 32, 8.0f, decode_q4_0};
  static const IntegerFormat q4_1 = {Layout::kNibbles, 32, 32, -1.0f, decode_q4_1};
  static const IntegerFormat q5_0 = {Layout::kBytes, 32, 32, 16.0f, decode_q5_0};
  static const IntegerFormat q5_1 = {Layout::kBytes, 32, 32, -1.0f, decode_q5_1};
  static const IntegerFormat q8_0 = {Layout::kBytes, 32, 32, 128.0f, decode_q8_0};
  static const IntegerFormat q4_k = {Layout::kNibbles, 256, 32, -1.0f, decode_q4_k};
  static const IntegerFormat q5_k = {Layout::kBytes, 256, 32, -1.0f, decode_q5_k};
  static const IntegerFormat q6_k = {Layout::kBytes, 256, 16, 32.0f, decode_q6_k};
  switch (type) {
    case WeightType::kQ4_0:
      return &q4_0;
    case WeightType::kQ4_1:
      return &q4_1;
    case WeightType::kQ5_0:
      return &q5_0;
    case WeightType::kQ5_1:
      return &q5_1;
    case WeightType::kQ8_0:
      return &q8_0;
    case WeightType::kQ4_K:
      return &q4_k;
    case WeightType::kQ5_K:
      return &q5_k;
    case WeightType::kQ6_K:
      return &q6_k;
    default:
      return nullptr;
  }
}

// Codes of a block of kBytes; returns its scale as a half, to which the codes are rounded.
uint16_t code_bytes(const float* values, uint8_t* codes) {
  const float largest = largest_of(values, kByteBlock);
  const uint16_t half = quant::float_to_half(largest / static_cast<float>(kByteMax));
  const float scale = quant::half_to_float(half);
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (int64_t i = 0; i < kByteBlock; ++i) {
    const auto distance = static_cast<int>(std::nearbyint(values[i] * inverse));
    codes[i] = static_cast<uint8_t>(kByteCenter + std::clamp(distance, -kByteMax, kByteMax));
  }
  return half;
}

std::unique_ptr<PackedMatrix> pack_integer(const IntegerFormat& format, WeightType type,
                                           const uint8_t* source, MatrixView shape,
                                           Precision precision) {
  shape.layout = format.layout;
  shape.block = format.block;
  shape.blocks = shape.k / format.block;
  shape.center = format.center;
  const int64_t bytes_per_block = (format.layout == Layout::kNibbles ? 8 : 16) * format.block;
  shape.strip_bytes = shape.blocks * bytes_per_block;
  AlignedBuffer codes(shape.strips * shape.strip_bytes);
  const int64_t scale_bytes = shape.strips * shape.blocks * kStripRows * 2;
  AlignedBuffer scales(scale_bytes);
  AlignedBuffer offsets;
  if (format.center < 0.0f) offsets = AlignedBuffer(scale_bytes);
  const int64_t row_bytes = weight_bytes(type, shape.k);
  const int64_t source_bytes = weight_bytes(type, format.source_block);
  const int64_t subs = format.source_block / format.block;
  parallel_for(shape.strips, 8, [&](int64_t begin, int64_t end) {
    CodedBlock coded;
    for (int64_t i = begin * kStripRows; i < end * kStripRows; ++i) {
      const int64_t strip = i / kStripRows;
      const int row = static_cast<int>(i % kStripRows);
      for (int64_t b = 0; b < shape.blocks; ++b) {
        const int64_t sub = b % subs;
        if (i >= shape.n) {
          std::memset(&coded, 0, sizeof(coded));
        } else if (sub == 0) {
          format.decode(source + i * row_bytes + (b / subs) * source_bytes, &coded);
        }
        place_codes(format.layout, coded.codes + sub * format.block, format.block,
                    codes.data() + strip * shape.strip_bytes + b * bytes_per_block, row);
        const int64_t slot = (strip * shape.blocks + b) * kStripRows + row;
        reinterpret_cast<uint16_t*>(scales.data())[slot] = quant::float_to_half(coded.scales[sub]);
        if (format.center < 0.0f) {
          reinterpret_cast<uint16_t*>(offsets.data())[slot] =
              quant::float_to_half(coded.offsets[sub]);
        }
      }
    }
  });
  return std::make_unique<PackedStrips>(shape, precision, std::move(codes), std::move(scales),
                                        std::move(offsets));
}

}  // namespace

MatrixView matrix_shape(int64_t n, int64_t k) {
  QUARRY_CHECK(n >= 1 && k >= 1, ErrorCode::kInvalidArgument, "pack_matrix: shape [", n, ", ", k,
               "], want n >= 1 and k >= 1");
  MatrixView shape = {};
  shape.n = n;
  shape.k = k;
  shape.strips = (n + kStripRows - 1) / kStripRows;
  return shape;
}

MatrixView byte_shape(int64_t n, int64_t k, int64_t block) {
  MatrixView shape = matrix_shape(n, k);
  shape.layout = Layout::kBytes;
  shape.block = block;
  shape.blocks = k / block;
  shape.strip_bytes = k * kStripRows;
  shape.center = float{kByteCenter};
  return shape;
}

float largest_of(const float* values, int64_t count) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
  return largest;
}

void place_codes(Layout layout, const uint8_t* codes, int64_t block, uint8_t* block_start,
                 int64_t row) {
  if (layout == Layout::kNibbles) {
    for (int j = 0; j < 4; ++j) {
      for (int b = 0; b < 4; ++b) {
        block_start[64 * j + 4 * row + b] =
            static_cast<uint8_t>(codes[4 * j + b] | codes[16 + 4 * j + b] << 4);
      }
    }
  } else {
    for (int64_t j = 0; j < block / 4; ++j) {
      std::memcpy(block_start + 64 * j + 4 * row, codes + 4 * j, 4);
    }
  }
}

namespace {

// Whether dense weights become bytes.
bool rounds_to_bytes(int64_t k, Precision precision) {
  return precision == Precision::kFast8 && k % kByteBlock == 0;
}

// kBytes in blocks of 64, the largest element of each at a distance of kByteMax from the center.
std::unique_ptr<PackedMatrix> pack_byte_rows(int64_t n, int64_t k, Precision precision,
                                             const RowReader& read_row) {
  const MatrixView shape = byte_shape(n, k, kByteBlock);
  AlignedBuffer codes(shape.strips * shape.strip_bytes);
  AlignedBuffer scales(shape.strips * shape.blocks * kStripRows * 2);
  parallel_for(shape.strips, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(shape.k));
    uint8_t coded[kByteBlock];
    for (int64_t i = begin * kStripRows; i < end * kStripRows; ++i) {
      const int64_t strip = i / kStripRows;
      const int row = static_cast<int>(i % kStripRows);
      if (i < shape.n) {
        read_row(i, values.data());
      } else {
        values.assign(values.size(), 0.0f);
      }
      for (int64_t b = 0; b < shape.blocks; ++b) {
        const uint16_t scale = code_bytes(values.data() + b * kByteBlock, coded);
        const int64_t slot = (strip * shape.blocks + b) * kStripRows + row;
        reinterpret_cast<uint16_t*>(scales.data())[slot] = scale;
        place_codes(Layout::kBytes, coded, kByteBlock,
                    codes.data() + strip * shape.strip_bytes + b * kByteBlock * kStripRows, row);
      }
    }
  });
  return std::make_unique<PackedStrips>(shape, precision, std::move(codes), std::move(scales));
}

}  // namespace

std::unique_ptr<PackedMatrix> pack_dense_rows(MatrixView shape, Precision precision,
                                              const RowReader& read_row) {
  if (rounds_to_bytes(shape.k, precision)) {
    return pack_byte_rows(shape.n, shape.k, precision, read_row);
  }
  shape.layout = precision == Precision::kExact ? Layout::kF32 : Layout::kBF16;
  const int64_t even_k = shape.k + shape.k % 2;
  shape.strip_bytes =
      precision == Precision::kExact ? shape.k * kStripRows * 4 : even_k * kStripRows * 2;
  AlignedBuffer codes(shape.strips * shape.strip_bytes);
  parallel_for(shape.strips, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(even_k));
    for (int64_t i = begin * kStripRows; i < end * kStripRows; ++i) {
      uint8_t* strip = codes.data() + (i / kStripRows) * shape.strip_bytes;
      const int64_t row = i % kStripRows;
      if (i < shape.n) {
        read_row(i, values.data());
        if (even_k > shape.k) values[static_cast<size_t>(shape.k)] = 0.0f;
      } else {
        values.assign(values.size(), 0.0f);
      }
      if (precision == Precision::kExact) {
        float* out = reinterpret_cast<float*>(strip);
        for (int64_t j = 0; j < shape.k; ++j) out[j * kStripRows + row] = values[j];
      } else {
        uint16_t* out = reinterpret_cast<uint16_t*>(strip);
        for (int64_t j = 0; j < even_k; ++j) {
          out[(j / 2) * 2 * kStripRows + 2 * row + j % 2] = quant::float_to_bfloat16(values[j]);
        }
      }
    }
  });
  return std::make_unique<PackedStrips>(shape, precision, std::move(codes));
}

std::unique_ptr<PackedMatrix> pack_rows(int64_t n, int64_t k, Precision precision,
                                        const RowReader& read_row) {
  return pack_dense_rows(matrix_shape(n, k), precision, read_row);
}

std::unique_ptr<PackedMatrix> pack_matrix(WeightType type, const void* source, int64_t n, int64_t k,
                                          Precision precision) {
  const WeightTypeTraits& traits = weight_type_traits(type);
  QUARRY_CHECK(n >= 1 && k >= 1 && k % traits.block_size == 0, ErrorCode::kInvalidArgument,
               "pack_matrix: shape [", n, ", ", k, "] of type ", traits.name,
               ", want n >= 1 and k a positive multiple of ", traits.block_size);
  const MatrixView shape = matrix_shape(n, k);
  const uint8_t* bytes = static_cast<const uint8_t*>(source);
  const IntegerFormat* format = integer_format(type);
  if (precision != Precision::kExact && format != nullptr) {
    return pack_integer(*format, type, bytes, shape, precision);
  }
  const int64_t row_bytes = weight_bytes(type, k);
  return pack_dense_rows(shape, precision, [&](int64_t row, float* values) {
    dequantize(type, bytes + row * row_bytes, values, k);
  });
}

int64_t packed_bytes(WeightType type, int64_t n, int64_t k, Precision precision) {
  const int64_t rows = matrix_shape(n, k).strips * kStripRows;
  if (precision == Precision::kExact) return rows * k * 4;
  if (const IntegerFormat* format = integer_format(type)) {
    const int64_t row_codes = format->layout == Layout::kNibbles ? k / 2 : k;
    const int64_t row_scales = k / format->block * 2;
    return rows * (row_codes + row_scales * (format->center < 0.0f ? 2 : 1));
  }
  if (needs_quant_state(type) && k % kQuantizedBlock == 0) {
    const bool is_int8 = type == WeightType::kInt8Rows;
    const int64_t scale_span =
        !is_int8 && k % (2 * kQuantizedBlock) == 0 ? 2 * kQuantizedBlock : kQuantizedBlock;
    return rows * ((is_int8 ? k : k / 2) + k / scale_span * 2 + 4);
  }
  if (rounds_to_bytes(k, precision)) return rows * (k + k / kByteBlock * 2);
  return rows * (k + k % 2) * 2;
}

void decode_row(const PackedMatrix& weight, int64_t row, float* destination) {
  const MatrixView& w = view_of(weight);
  QUARRY_CHECK(row >= 0 && row < w.n, ErrorCode::kInvalidArgument, "decode_row: row ", row,
               " of a matrix with ", w.n, " rows");
  portable::decode_row(w, row, destination);
}

}  // namespace quarry::kernels
