#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/quant/int8_rows.h"
#include "generator/quant/weight_options.h"
#include "generator/weights/tensor_source.h"

namespace quarry::nn {

// Packs a weight [out_features, in_features] of any type as `load_in` says. Row i of the result is
// row row_order[i] of `weight`; empty: as stored. Weights are quantized after they were put in
// order, each tensor by itself, so that the result is what bitsandbytes makes of a Hugging Face
// checkpoint. One that has the wanted type already is not touched. Throws kInvalidArgument, naming
// the tensor, for values that cannot be quantized.
std::unique_ptr<kernels::PackedMatrix> pack_weight(const TensorView& weight,
                                                   const std::vector<int64_t>& row_order,
                                                   kernels::Precision precision, LoadIn load_in);

// The codes of a weight as int8 rows, quantized unless it holds such.
Int8Rows int8_rows_of(const TensorView& weight, const std::vector<int64_t>& row_order);

// How weights that are loaded so are held: bfloat16 that was asked for is not rounded to bytes.
kernels::Precision held_precision(kernels::Precision precision, LoadIn load_in);

// How an output head of this type is multiplied: what is rounded there goes straight into the
// logits, and reading the weights takes longer than a second byte of the activations does. Of a
// dense head kFast would hold twice the bytes.
kernels::Precision head_precision(kernels::Precision precision, WeightType type);

// The type that quantization to `load_in` gives; nullopt for the others.
std::optional<WeightType> quantized_type(LoadIn load_in);

}  // namespace quarry::nn
