#include "generator/nn/pack_weight.h"

#include <cstring>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/encode_dense.h"
#include "generator/quant/four_bit.h"
#include "generator/quant/half.h"

namespace quarry::nn {
namespace {

using kernels::PackedMatrix;
using kernels::Precision;

// Decodes row `row` of the order.
void decode_row_in_order(const TensorView& weight, const std::vector<int64_t>& order, int64_t row,
                         float* destination) {
  const int64_t stored = order.empty() ? row : order[static_cast<size_t>(row)];
  decode_rows(weight, stored, stored + 1, destination);
}

std::vector<float> decode_in_order(const TensorView& weight, const std::vector<int64_t>& order) {
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  std::vector<float> values(static_cast<size_t>(n * k));
  parallel_for(n, std::max<int64_t>(1, 65536 / k), [&](int64_t begin, int64_t end) {
    if (order.empty()) return decode_rows(weight, begin, end, values.data() + begin * k);
    for (int64_t row = begin; row < end; ++row) {
      decode_row_in_order(weight, order, row, values.data() + row * k);
    }
  });
  return values;
}

// The bytes of a type without state, rows in order.
std::vector<uint8_t> rows_in_order(const TensorView& weight, const std::vector<int64_t>& order) {
  const int64_t row_bytes = weight_bytes(weight.type, weight.shape[1]);
  std::vector<uint8_t> rows(static_cast<size_t>(weight.shape[0] * row_bytes));
  for (int64_t row = 0; row < weight.shape[0]; ++row) {
    const int64_t stored = order.empty() ? row : order[static_cast<size_t>(row)];
    std::memcpy(rows.data() + row * row_bytes, weight.data + stored * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  return rows;
}

std::unique_ptr<PackedMatrix> pack_as_is(const TensorView& weight,
                                         const std::vector<int64_t>& order, Precision precision) {
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  if (needs_quant_state(weight.type)) {
    QUARRY_CHECK(order.empty(), ErrorCode::kInternal, "rows of '", weight.name, "' have an order");
    return kernels::pack_quantized(weight.type, *weight.state, weight.data, n, k, precision);
  }
  return kernels::pack_matrix(weight.type, rows_in_order(weight, order).data(), n, k, precision);
}

std::unique_ptr<PackedMatrix> pack_quantized_values(const std::vector<float>& values, int64_t n,
                                                    int64_t k, Precision precision,
                                                    LoadIn load_in) {
  if (load_in == LoadIn::kInt8) {
    const Int8Rows rows = quantize_int8_rows(values.data(), n, k);
    return kernels::pack_quantized(WeightType::kInt8Rows, rows.state, rows.codes.data(), n, k,
                                   precision);
  }
  FourBitOptions options;
  options.type = *quantized_type(load_in);
  const FourBitCodes coded = quantize_four_bit(values.data(), n * k, options);
  return kernels::pack_quantized(options.type, coded.state, coded.codes.data(), n, k, precision);
}

// As float32, or rounded to bfloat16 and kept so; kExact keeps that in float32.
std::unique_ptr<PackedMatrix> pack_floats(const TensorView& weight,
                                          const std::vector<int64_t>& order, Precision precision,
                                          LoadIn load_in) {
  const int64_t k = weight.shape[1];
  const bool rounds = load_in == LoadIn::kBF16;
  return kernels::pack_rows(
      weight.shape[0], k, held_precision(precision, load_in), [&](int64_t row, float* values) {
        decode_row_in_order(weight, order, row, values);
        for (int64_t i = 0; rounds && i < k; ++i) {
          values[i] = quant::bfloat16_to_float(quant::float_to_bfloat16(values[i]));
        }
      });
}

}  // namespace

Precision held_precision(Precision precision, LoadIn load_in) {
  if (load_in == LoadIn::kF32) return Precision::kExact;
  return load_in == LoadIn::kBF16 && precision == Precision::kFast8 ? Precision::kFast : precision;
}

Precision head_precision(Precision precision, WeightType type) {
  return precision == Precision::kFast8 && !is_dense_float(type) ? Precision::kFast : precision;
}

std::optional<WeightType> quantized_type(LoadIn load_in) {
  switch (load_in) {
    case LoadIn::kNF4:
      return WeightType::kNF4;
    case LoadIn::kFP4:
      return WeightType::kFP4;
    case LoadIn::kInt8:
      return WeightType::kInt8Rows;
    default:
      return std::nullopt;
  }
}

Int8Rows int8_rows_of(const TensorView& weight, const std::vector<int64_t>& row_order) {
  if (weight.type != WeightType::kInt8Rows) {
    const std::vector<float> values = decode_in_order(weight, row_order);
    return quantize_int8_rows(values.data(), weight.shape[0], weight.shape[1]);
  }
  const auto* codes = reinterpret_cast<const int8_t*>(weight.data);
  return {{codes, codes + weight.num_elements()}, *weight.state};
}

std::unique_ptr<PackedMatrix> pack_weight(const TensorView& weight,
                                          const std::vector<int64_t>& row_order,
                                          Precision precision, LoadIn load_in) {
  if (load_in == LoadIn::kAsIs || quantized_type(load_in) == weight.type) {
    return pack_as_is(weight, row_order, precision);
  }
  if (!quantized_type(load_in)) return pack_floats(weight, row_order, precision, load_in);
  try {
    return pack_quantized_values(decode_in_order(weight, row_order), weight.shape[0],
                                 weight.shape[1], precision, load_in);
  } catch (const Error& error) {
    throw_error(error.code(), "tensor '", weight.name, "': ", error.what());
  }
}

}  // namespace quarry::nn
