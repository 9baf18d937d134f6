#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/core/cancel.h"
#include "generator/adapters/model_file.h"
#include "generator/quant/weight_type.h"

namespace quarry {

// Names of the types that a model can be quantized to: "nf4", "fp4", "int8", "q8_0" ...
std::vector<std::string> quantized_type_names();
// Throws kInvalidArgument, listing the names, for another.
WeightType parse_quantized_type(const std::string& name);

struct QuantizeModelOptions {
  WeightType type = WeightType::kNF4;
  // kNF4 and kFP4.
  int64_t block_size = 64;
  bool double_quant = true;
  const CancelFlag* cancel = nullptr;  // looked at before each tensor; null: never
};

struct QuantizeModelResult {
  int64_t quantized_tensors = 0;
  int64_t source_bytes = 0;  // of all tensors
  int64_t bytes = 0;         // of all tensors written
};

// Writes `base` with the weights of its Linears quantized. `out` must not exist and appears whole
// or not at all.
//   kNF4, kFP4, kInt8Rows: a Hugging Face folder as bitsandbytes and transformers save one
//     (weights/bnb_tensors.h). Embedding, head and norms keep their dense type, or get float16;
//     from a GGUF base, configuration and tokenizer are written from its metadata.
//   kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0: a GGUF file, from a GGUF base. Embedding and head get Q8_0,
//     unless they are in blocks already; the rest and all metadata are copied.
// Throws as ModelFile::open; kInvalidArgument for a combination that cannot be, or for values that
// are not finite; kUnavailable when the disk refuses, or cancelled.
QuantizeModelResult quantize_model(const ModelFile& base, const std::filesystem::path& out,
                                   const QuantizeModelOptions& options);

}  // namespace quarry
