#pragma once

#include <filesystem>
#include <memory>

#include "data/core/json.h"
#include "generator/quant/weight_options.h"
#include "generator/weights/safetensors_file.h"

// Checkpoints that bitsandbytes quantized, as transformers saves them.
//   4 bit (QuantState.as_dict(packed=True)): X.weight holds the codes as U8 [(n + 1) / 2, 1], or
//   the
//     same bytes as F16, BF16 or F32; X.weight.absmax F32 [blocks], or U8 [blocks] when nested;
//     X.weight.quant_map F32 [16]; nested: X.weight.nested_absmax F32 [blocks / 256],
//     X.weight.nested_quant_map F32 [256]; X.weight.quant_state.bitsandbytes__nf4 (__fp4) U8, the
//     JSON {"quant_type", "blocksize", "dtype", "shape" [, "nested_blocksize", "nested_dtype",
//     "nested_offset"]}
//   8 bit: X.weight I8 [out, in], X.SCB F32 [out], X.weight_format U8 [], 0 for rows
namespace quarry {

// Puts the parts together: X.weight becomes one tensor of type kNF4, kFP4 or kInt8Rows with its own
// shape and state, the others disappear. A file without such parts stays as it is. Throws
// kCorruptData, naming file and tensor, for parts that are missing, of wrong size or unknown;
// kInvalidArgument for a weight_format other than rows.
std::unique_ptr<TensorSource> join_bnb_tensors(std::unique_ptr<SafetensorsFile> file);

// The tensors of a model's folder, joined. Throws as SafetensorsFile::open and join_bnb_tensors;
// kInvalidArgument when config.json names another quantization than that of bitsandbytes.
std::unique_ptr<TensorSource> open_folder_tensors(const std::filesystem::path& folder,
                                                  const Json& config);

// What config.json's quantization_config wants of dense weights: kNF4, kFP4 or kInt8; kAsIs when
// there is none or the tensors are quantized already. `source` names the file in errors. Throws
// kInvalidArgument for settings that are not supported.
LoadIn configured_load_in(const Json& config, const TensorSource& tensors,
                          const std::string& source);

// The parts of one tensor to be written; the shape is that of the weight. `name` ends in ".weight".
std::vector<TensorToWrite> split_bnb_tensor(const std::string& name, WeightType type,
                                            const std::vector<int64_t>& shape, std::string codes,
                                            const QuantState& state);
// quantization_config of a folder whose Linears have this type: kNF4, kFP4 or kInt8Rows.
OrderedJson bnb_quantization_config(WeightType type, const std::string& compute_dtype,
                                    bool double_quant);

}  // namespace quarry
