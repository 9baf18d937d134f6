#pragma once

#include <filesystem>
#include <string>

#include "generator/models/families.h"

namespace quarry {

// Fills a Hugging Face folder with all but the weights of a GGUF model: config.json (with `dtype`
// as its torch_dtype), generation_config.json, tokenizer_config.json and the tokenizer's file.
// Throws kInvalidArgument for what such files cannot say, kUnavailable.
void write_model_folder_from_gguf(const GgufFile& file, const CausalLmFamily& family,
                                  const std::string& dtype, const std::filesystem::path& folder);

}  // namespace quarry
