#pragma once

#include <filesystem>

#include "generator/adapters/model_file.h"

namespace quarry {

struct ConvertOptions {
  bool check_base = true;  // refuse a base model other than the one that the adapter was trained on
};

// Writes a PEFT adapter as a GGUF adapter for llama.cpp and what builds on it: float32 tensors
// "<base tensor>.lora_a" [r, in] and ".lora_b" [out, r] under GGUF's names, rows of q and k in
// GGUF's order. llama.cpp scales every pair by alpha / r with one alpha for the file; what PEFT's
// rsLoRA and alpha_pattern say beyond that is multiplied into B. Throws as LoraAdapter::load and
// check_adapter_base; kInvalidArgument for an adapter with modules_to_save or biases, which
// llama.cpp has no place for; kUnavailable.
void adapter_to_gguf(const std::filesystem::path& folder, const ModelFile& base,
                     const std::filesystem::path& gguf, const ConvertOptions& options = {});

// The other way: a folder as save_adapter writes it. Throws kNotFound, kCorruptData;
// kInvalidArgument for a GGUF that is no LoRA adapter, that is for another architecture, or that
// holds what PEFT's Linears cannot (token embeddings, norms, aLoRA), naming it.
void gguf_to_adapter(const std::filesystem::path& gguf, const ModelFile& base,
                     const std::filesystem::path& folder, const ConvertOptions& options = {});

}  // namespace quarry
