#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generator/nn/lora.h"
#include "generator/weights/tensor_source.h"

namespace quarry {

// One tensor of a model with an adapter put in: W + scale * B A, in float32 until the last
// rounding.
struct MergedTensor {
  const TensorView* base = nullptr;   // borrowed; any type
  const LoraWeights* lora = nullptr;  // borrowed; null: W as it is
  const FullTensor* full = nullptr;   // borrowed; not null: takes W's place
  // Row i of `lora` or `full` belongs to row stored_rows[i] of the base; empty: the same order.
  // Borrowed.
  const std::vector<int64_t>* stored_rows = nullptr;
  float stored_offset = 0.0f;          // what the base's file adds to the values
  bool in_stored_order = true;         // of the rows of the result; else in the adapter's
  bool stored_transposed = false;      // the base is a Conv1D's [in, out]
  bool writes_transposed = false;      // so is the result
  WeightType type = WeightType::kF32;  // F32, F16 or BF16
};

// The bytes; rows in stored order keep the offset of the file, others lose it. Throws
// kInvalidArgument, naming the tensor, when a value is not finite in that type; kCorruptData when
// the rows are not a multiple of stored_rows.
std::string merged_bytes(const MergedTensor& tensor);

// Row i of the result is row rows[i] of `values`. REQUIRES: rows is not empty.
std::vector<float> rows_in_order(const std::vector<float>& values,
                                 const std::vector<int64_t>& rows);

// values [rows, columns] -> [columns, rows].
std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t columns);

}  // namespace quarry
