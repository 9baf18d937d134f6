// Packs codes that need a QuantState: 4-bit codebooks and row-wise int8.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/packed_strips.h"
#include "generator/quant/four_bit.h"
#include "generator/quant/half.h"
#include "generator/quant/int8_rows.h"

namespace quarry::kernels {
namespace {

constexpr int64_t kBlock = kQuantizedBlock;

// The integer that stands for 1 in a codebook: of the factors that fit, the one that leaves the 16
// values nearest to integers. In kCodebook 1.5e-4 of NF4's root mean square (kWordMax: 2.3e-4) and
// nothing of FP4's whole numbers of 1/192; in bytes 3.3e-3 (127: 4.2e-3) and 2.3e-3 (127: 4.7e-3).
float codebook_factor(WeightType type, bool is_byte) {
  if (type == WeightType::kNF4) return is_byte ? 112.03f : 1722.0625f;
  return is_byte ? 120.0f : 192.0f;
}

// What stands for 0 in kByteCodebook.
constexpr float kByteZero = 128.0f;

void check_sizes(WeightType type, const QuantState& state, int64_t n, int64_t k) {
  const int64_t wanted = type == WeightType::kInt8Rows ? n
                                                       : (n * k + state.block_size - 1) /
                                                             std::max<int64_t>(1, state.block_size);
  QUARRY_CHECK(static_cast<int64_t>(state.absmax.size()) == wanted, ErrorCode::kInvalidArgument,
               "pack_quantized: shape [", n, ", ", k, "] of type ", weight_type_traits(type).name,
               " wants ", wanted, " absmax, got ", state.absmax.size());
}

// Scales of a strip's rows, the same for a whole row; rows past the matrix have 0.
AlignedBuffer make_row_scales(const MatrixView& shape) {
  AlignedBuffer buffer(shape.strips * kStripRows * 4);
  std::memset(buffer.data(), 0, static_cast<size_t>(buffer.bytes()));
  return buffer;
}

// The codes of `count` neighbours of one row, placed in a block of a codebook layout.
void place_block(Layout layout, const uint8_t* codes, int64_t first, int64_t count, int64_t lane,
                 uint8_t* block) {
  constexpr int kWordOrder[4] = {0, 2, 1, 3};
  const auto code = [&](int64_t i) {
    const int pair = codes[(first + i) / 2];
    return (first + i) % 2 == 0 ? pair >> 4 : pair & 15;
  };
  for (int64_t i = 0; i < count / 2; ++i) {
    const int64_t byte = layout == Layout::kCodebook ? kWordOrder[i % 4] : i % 4;
    block[64 * (i / 4) + 4 * lane + byte] =
        static_cast<uint8_t>(code(i) | code(i + count / 2) << 4);
  }
}

std::unique_ptr<PackedMatrix> pack_four_bit(WeightType type, const QuantState& state,
                                            const uint8_t* source, MatrixView shape,
                                            Precision precision) {
  const bool is_byte = precision == Precision::kFast8;
  shape.layout = is_byte ? Layout::kByteCodebook : Layout::kCodebook;
  shape.center = is_byte ? kByteZero : 0.0f;
  const bool has_long_runs = state.block_size >= 2 * kBlock && shape.k % (2 * kBlock) == 0;
  shape.block = is_byte && has_long_runs ? 2 * kBlock : kBlock;
  shape.blocks = shape.k / shape.block;
  shape.strip_bytes = shape.k * 8;
  shape.scale_shift = !is_byte && has_long_runs ? 1 : 0;
  const float factor = codebook_factor(type, is_byte);
  for (size_t i = 0; i < 16; ++i) {
    shape.codebook[i] =
        static_cast<int16_t>(std::nearbyint(four_bit_codebook(type)[i] * factor) + shape.center);
  }
  const int64_t row_scales = shape.blocks >> shape.scale_shift;  // of one row
  const int64_t scale_span = shape.block << shape.scale_shift;   // k of one scale
  AlignedBuffer codes(shape.strips * shape.strip_bytes);
  AlignedBuffer scales(shape.strips * row_scales * kStripRows * 2);
  AlignedBuffer rows = make_row_scales(shape);
  std::memset(codes.data(), 0, static_cast<size_t>(codes.bytes()));
  std::memset(scales.data(), 0, static_cast<size_t>(scales.bytes()));
  parallel_for(shape.strips, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kStripRows; i < std::min(shape.n, end * kStripRows); ++i) {
      const int64_t strip = i / kStripRows;
      const int64_t lane = i % kStripRows;
      for (int64_t b = 0; b < shape.blocks; ++b) {
        place_block(shape.layout, source, i * shape.k + b * shape.block, shape.block, lane,
                    codes.data() + strip * shape.strip_bytes + b * shape.block * 8);
      }
      const auto absmax = [&](int64_t s) {
        return state.absmax[static_cast<size_t>((i * shape.k + s * scale_span) / state.block_size)];
      };
      float largest = 0.0f;
      for (int64_t s = 0; s < row_scales; ++s) largest = std::max(largest, std::fabs(absmax(s)));
      reinterpret_cast<float*>(rows.data())[i] = largest / factor;
      for (int64_t s = 0; s < row_scales && largest > 0.0f; ++s) {
        reinterpret_cast<uint16_t*>(scales.data())[(strip * row_scales + s) * kStripRows + lane] =
            quant::float_to_half(absmax(s) / largest);
      }
    }
  });
  return std::make_unique<PackedStrips>(shape, precision, std::move(codes), std::move(scales),
                                        AlignedBuffer(), std::move(rows));
}

std::unique_ptr<PackedMatrix> pack_int8(const QuantState& state, const int8_t* source,
                                        MatrixView shape, Precision precision) {
  shape.layout = Layout::kBytes;
  shape.block = kBlock;
  shape.blocks = shape.k / kBlock;
  shape.strip_bytes = shape.blocks * kBlock * kStripRows;
  shape.center = 128.0f;
  AlignedBuffer codes(shape.strips * shape.strip_bytes);
  AlignedBuffer scales(shape.strips * shape.blocks * kStripRows * 2);
  AlignedBuffer rows = make_row_scales(shape);
  std::memset(codes.data(), 128, static_cast<size_t>(codes.bytes()));
  uint16_t* halves = reinterpret_cast<uint16_t*>(scales.data());
  std::fill(halves, halves + scales.bytes() / 2, quant::float_to_half(1.0f));
  parallel_for(shape.strips, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kStripRows; i < std::min(shape.n, end * kStripRows); ++i) {
      uint8_t* strip = codes.data() + i / kStripRows * shape.strip_bytes;
      for (int64_t j = 0; j < shape.k; ++j) {
        strip[64 * (j / 4) + 4 * (i % kStripRows) + j % 4] =
            static_cast<uint8_t>(source[i * shape.k + j] + 128);
      }
      reinterpret_cast<float*>(rows.data())[i] =
          int8_row_scale(state.absmax[static_cast<size_t>(i)]);
    }
  });
  return std::make_unique<PackedStrips>(shape, precision, std::move(codes), std::move(scales),
                                        AlignedBuffer(), std::move(rows));
}

}  // namespace

std::unique_ptr<PackedMatrix> pack_quantized(WeightType type, const QuantState& state,
                                             const void* codes, int64_t n, int64_t k,
                                             Precision precision) {
  QUARRY_CHECK(needs_quant_state(type), ErrorCode::kInvalidArgument, "pack_quantized: type ",
               weight_type_traits(type).name, " has no state, use pack_matrix");
  const MatrixView shape = matrix_shape(n, k);
  check_sizes(type, state, n, k);
  const auto* bytes = static_cast<const uint8_t*>(codes);
  const auto* signed_bytes = static_cast<const int8_t*>(codes);
  const bool is_int8 = type == WeightType::kInt8Rows;
  // A run of 32 k has one absmax when no row ends within a run.
  if (precision != Precision::kExact && k % kBlock == 0) {
    return is_int8 ? pack_int8(state, signed_bytes, shape, precision)
                   : pack_four_bit(type, state, bytes, shape, precision);
  }
  return pack_dense_rows(shape, precision, [&](int64_t row, float* values) {
    if (is_int8) {
      dequantize_int8_row(state, signed_bytes, row, k, values);
    } else {
      dequantize_four_bit(type, state, bytes, row * k, (row + 1) * k, values);
    }
  });
}

}  // namespace quarry::kernels
