#include "generator/adapters/merged_tensor.h"

#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/encode_dense.h"
#include "generator/weights/printable.h"

namespace quarry {
namespace {

constexpr int64_t kRowsPerPiece = 16;

// Largest magnitude that does not round to infinity.
float largest(WeightType type) {
  if (type == WeightType::kF16) return 0x1.ffdp15f;  // 65512, below the tie with 2^16
  if (type == WeightType::kBF16) return 0x1.fep127f;
  return 0x1.fffffep127f;
}

// values [out, in] += scale * B A; row i goes to stored_rows[i].
void add_delta(const LoraWeights& lora, const std::vector<int64_t>& stored_rows, int64_t out,
               int64_t in, float* values) {
  parallel_for(out, kRowsPerPiece, [&](int64_t begin, int64_t end) {
    std::vector<float> delta(static_cast<size_t>(in));
    for (int64_t row = begin; row < end; ++row) {
      std::fill(delta.begin(), delta.end(), 0.0f);
      for (int64_t k = 0; k < lora.rank; ++k) {
        const float factor = lora.b[static_cast<size_t>(row * lora.rank + k)];
        const float* a = lora.a.data() + k * in;
        for (int64_t i = 0; i < in; ++i) delta[static_cast<size_t>(i)] += factor * a[i];
      }
      const int64_t stored = stored_rows.empty() ? row : stored_rows[static_cast<size_t>(row)];
      float* target = values + stored * in;
      for (int64_t i = 0; i < in; ++i) target[i] += lora.scale * delta[static_cast<size_t>(i)];
    }
  });
}

std::vector<float> to_stored_order(const std::vector<float>& values,
                                   const std::vector<int64_t>& rows) {
  if (rows.empty()) return values;
  const size_t width = values.size() / rows.size();
  std::vector<float> stored(values.size());
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto from = values.begin() + static_cast<int64_t>(row * width);
    std::copy_n(from, width, stored.begin() + rows[row] * static_cast<int64_t>(width));
  }
  return stored;
}

}  // namespace

std::vector<float> rows_in_order(const std::vector<float>& values,
                                 const std::vector<int64_t>& rows) {
  const size_t width = values.size() / rows.size();
  std::vector<float> ordered(values.size());
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto from = values.begin() + rows[row] * static_cast<int64_t>(width);
    std::copy_n(from, width, ordered.begin() + static_cast<int64_t>(row * width));
  }
  return ordered;
}

std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t columns) {
  std::vector<float> result(values.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      result[static_cast<size_t>(column * rows + row)] =
          values[static_cast<size_t>(row * columns + column)];
    }
  }
  return result;
}

std::string merged_bytes(const MergedTensor& tensor) {
  const TensorView& base = *tensor.base;
  const std::vector<int64_t> same_order;
  const std::vector<int64_t>& rows =
      tensor.stored_rows == nullptr ? same_order : *tensor.stored_rows;
  QUARRY_CHECK(rows.empty() || base.shape.front() == static_cast<int64_t>(rows.size()),
               ErrorCode::kCorruptData, "tensor ", printable(base.name), " has ",
               base.shape.front(), " rows, wanted ", rows.size());
  std::vector<float> values(static_cast<size_t>(base.num_elements()));
  const int64_t out = tensor.stored_transposed ? base.shape.back() : base.shape.front();
  const int64_t in = base.num_elements() / out;
  if (tensor.full != nullptr) {
    values = to_stored_order(tensor.full->values, rows);
    for (float& value : values) value += tensor.stored_offset;
  } else {
    decode_tensor(base, values.data());
    if (tensor.stored_transposed) values = transposed(values, in, out);
  }
  if (tensor.lora != nullptr) add_delta(*tensor.lora, rows, out, in, values.data());
  if (!tensor.in_stored_order) {
    if (!rows.empty()) values = rows_in_order(values, rows);
    for (float& value : values) value -= tensor.stored_offset;
  }
  if (tensor.writes_transposed) values = transposed(values, out, in);
  const float limit = largest(tensor.type);
  for (const float value : values) {
    QUARRY_CHECK(std::fabs(value) <= limit, ErrorCode::kInvalidArgument, "tensor ",
                 printable(base.name), ": merged value ", value, " is not finite as ",
                 weight_type_traits(tensor.type).name);
  }
  std::string bytes(static_cast<size_t>(weight_bytes(tensor.type, base.num_elements())), '\0');
  encode_dense(tensor.type, values.data(), base.num_elements(), bytes.data());
  return bytes;
}

}  // namespace quarry
