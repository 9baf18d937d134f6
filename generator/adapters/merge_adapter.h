#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "data/core/cancel.h"
#include "generator/adapters/model_file.h"
#include "generator/quant/weight_type.h"

namespace quarry {

struct MergeOptions {
  // F32, F16 or BF16; nullopt: each tensor as in the base, which has to be dense then.
  std::optional<WeightType> type;
  bool check_base = true;  // refuse a base model other than the one that the adapter was trained on
  const CancelFlag* cancel = nullptr;  // looked at before each tensor; null: never
};

// "f32", "f16", "bf16", "as-base". Throws kInvalidArgument for another.
std::optional<WeightType> parse_merge_type(const std::string& name);
// As in the base when that is dense, else F16, which keeps more of small weights than BF16.
std::optional<WeightType> default_merge_type(const ModelFile& base);

struct MergeResult {
  int64_t merged_tensors = 0;
  int64_t bytes = 0;  // of all tensors written
};

// Writes a model whose weights are those of `base` with the PEFT adapter in `adapter` put in; it
// answers like the base with the adapter. `out` must not exist and appears whole or not at all:
//   a .gguf path: the base has to be a GGUF; its metadata and other tensors are copied as they are,
//     merged tensors get options.type;
//   any other: a Hugging Face folder (model.safetensors, config.json, tokenizer files); every
//   tensor
//     gets options.type. From a GGUF base configuration and tokenizer are written from its
//     metadata.
// Throws as LoraAdapter::load; kInvalidArgument when a value would not be finite, or for a
// combination that cannot be; kUnavailable when the disk refuses, or cancelled.
MergeResult merge_adapter(const ModelFile& base, const std::filesystem::path& adapter,
                          const std::filesystem::path& out, const MergeOptions& options = {});

}  // namespace quarry
