#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "generator/models/causal_lm.h"
#include "generator/models/config_values.h"
#include "generator/nn/workspace.h"
#include "generator/weights/gguf_file.h"

// What decoder-only families have in common of a configuration. All throw kCorruptData for values
// that cannot be, and kInvalidArgument, naming the key, for what we cannot compute.
namespace quarry {

// The angles of rotary positions.
struct RopeSettings {
  double theta = 10000.0;
  double linear_factor = 1.0;   // positions are divided by it (Chen et al. 2023, arXiv:2306.15595)
  std::vector<float> inv_freq;  // [rotary_dim / 2]
};

// Of config.json with the names that llama gave to the sizes: hidden_size, num_hidden_layers ...
// Without head_dim heads are default_head_dim wide, or, where that is 0, together as wide as the
// layers.
CausalLmConfig read_hf_config(const ConfigValues& values, int64_t default_head_dim = 0);
// Of GGUF metadata: "<architecture>.block_count" ... norm_epsilon is left to the family.
CausalLmConfig read_gguf_config(const GgufFile& file, const std::string& architecture);
// Heads that can be cut and shared, and a bound on the layers.
void check_config(const CausalLmConfig& config, const std::string& source);
// Heads that together are as wide as the layers, in families that have no other.
void check_whole_heads(const CausalLmConfig& config, const std::string& source);
// Of the part of a head that is turned.
void check_rotary_dim(int64_t rotary_dim, int64_t head_dim, const std::string& source);

// `values` holds rope_parameters (transformers 5) or rope_theta and rope_scaling.
RopeSettings read_hf_rope(const ConfigValues& values, double default_theta, int64_t rotary_dim);
// `parameters`: an object with rope_theta and rope_type.
RopeSettings read_rope_parameters(const ConfigValues& parameters, double default_theta,
                                  int64_t rotary_dim);
RopeSettings read_gguf_rope(const GgufFile& file, const std::string& architecture,
                            int64_t rotary_dim);

// Attention windows of the layers, 0 where a layer sees all: `window` where layer_types says
// sliding_attention, or, without layer_types, where `is_sliding` says so.
std::vector<int64_t> read_layer_windows(const ConfigValues& values, int64_t num_layers,
                                        int64_t window,
                                        const std::function<bool(int64_t)>& is_sliding);

// The activation function that a config.json names: gelu, gelu_new and its other names, relu.
using Activation = nn::Tensor (*)(const nn::Tensor& x, nn::Workspace& workspace);
Activation read_activation(const ConfigValues& values, const char* key, const char* fallback);

// config.json of a family with llama's names for the sizes, made of a GGUF file's values.
OrderedJson hf_config_json(const char* hf_class, const char* model_type,
                           const CausalLmConfig& config);
void write_rope(const RopeSettings& rope, OrderedJson& json);
// A float32 as the shortest decimal number that stands for it: 1e-5f is not 9.99999974e-06.
double shortest(double value);

}  // namespace quarry
