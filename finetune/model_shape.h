#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// One Linear (or Conv1D) of a model, by its Hugging Face module path.
struct LinearShape {
  std::string path;
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool is_output_head = false;
};

// What a model's config.json says about its parameters, without its weights.
struct ModelShape {
  std::string model_type;            // "llama", "t5", "mt5", "bloom", "opt", "gpt2", "bert", ...
  int64_t num_parameters = 0;        // as PyTorch counts them: tied weights once
  int64_t embedding_parameters = 0;  // of these: token and position tables, output head
  int64_t num_layers = 0;            // encoder and decoder together
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  std::vector<LinearShape> linears;
};

// Reads a config.json. Throws kNotFound; kInvalidArgument for a family that is not known, listing
// those that are; kCorruptData naming the key that is missing or out of range.
ModelShape read_model_shape(const std::filesystem::path& config_path);
ModelShape model_shape(const Json& config, const std::string& source);

// Parameters that an adapter adds, module by module: r * (in + out) each.
struct TrainableCount {
  int64_t trainable = 0;
  int64_t all = 0;  // base and adapter
};

// "trainable params: 442,368 || all params: 248,020,224 || trainable%: 0.1784", as PEFT prints it.
std::string format_trainable(const TrainableCount& count);

// 1234567 -> "1,234,567".
std::string with_thousands(int64_t value);

}  // namespace quarry
