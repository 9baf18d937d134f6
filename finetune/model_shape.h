#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/nn/lora_settings.h"

namespace quarry {

// One Linear (or Conv1D) of a model.
struct LinearShape {
  std::string path;  // Hugging Face's module path: "model.layers.0.self_attn.q_proj"
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool has_bias = false;
  bool is_output_head = false;
};

// One parameter of a model.
struct ParameterShape {
  std::string name;   // "model.layers.0.self_attn.q_proj.bias"
  int64_t size = 0;   // values
  bool tied = false;  // shares another's values, which PyTorch counts once
};

// What a config.json says about a model's parameters, without its weights.
struct ModelShape {
  std::string model_type;      // "llama"
  int64_t num_parameters = 0;  // as PyTorch counts them: tied weights once
  int64_t num_layers = 0;      // encoder and decoder together
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  std::vector<LinearShape> linears;
  std::vector<ParameterShape> parameters;
  std::vector<std::string>
      default_targets;  // of LoRA, as PEFT sets them for the family (phi3: ours)
};

// The shape of a config.json of the families llama, mistral, qwen2, qwen3, gemma3_text, phi3,
// gpt_neox, t5, mt5, bloom, opt, gpt2 and bert (with its pooler, without a head). `source` names it
// in errors. Throws kInvalidArgument for another family, listing these; kCorruptData naming a key
// that is missing or out of range.
ModelShape model_shape(const Json& config, const std::string& source);

// By the name of a known model, the path of a config.json or of a folder that holds one. Throws
// kNotFound listing the known names; and as model_shape().
ModelShape find_model_shape(const std::string& name_or_path);

// Models whose shape is built in: "T0_3B", "mt0-xxl", "bloomz-7b1" ...
std::vector<std::string> known_model_names();

struct TrainableCount {
  int64_t trainable = 0;
  int64_t all = 0;               // base and adapter
  int64_t in_large_tensors = 0;  // of the trainable ones: in tensors that AdamW8bit keeps in 8 bits
};

// What an adapter trains in a model known by shape, by the rules of PEFT (LoraConfig):
// r * (in + out) for each Linear it targets, whole modules_to_save, biases. Settings without
// targets take the family's defaults. Throws kInvalidArgument when nothing is targeted.
TrainableCount count_trainable(const ModelShape& model, const LoraSettings& settings);

// "trainable params: 442,368 || all params: 248,020,224 || trainable%: 0.1784", as PEFT prints it.
std::string format_trainable(const TrainableCount& count);

}  // namespace quarry
