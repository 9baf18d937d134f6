#pragma once

#include <functional>
#include <string>
#include <vector>

#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/gated_layer.h"
#include "generator/nn/head_norm.h"
#include "generator/nn/rope_table.h"

namespace quarry {

// What llama and its kin read of a configuration.
struct GatedPlan {
  CausalLmConfig config;
  RopeSettings rope;
  std::vector<int64_t> windows;  // [num_layers] of the attention, 0: none
};

// No windows.
GatedPlan make_gated_plan(CausalLmConfig config, RopeSettings rope);
// From either kind of file: GGUF's `architecture`, or config.json by llama's names. Rotary
// positions over whole heads, no windows. default_head_dim as read_hf_config. Throws as
// decoder_config.h.
GatedPlan read_gated_plan(const CausalLmSource& source, const std::string& architecture,
                          int64_t default_head_dim = 0);
// Where use_sliding_window says so, the layers from max_window_layers on have a window.
std::vector<int64_t> read_upper_windows(const ConfigValues& values, int64_t num_layers);

// Pre-norm layers with RMSNorm, rotary positions, grouped-query attention and SwiGLU.
class GatedDecoder : public Decoder {
 public:
  using LoadLayer = std::function<GatedLayer(DecoderLoader& load, int64_t number, double epsilon)>;
  GatedDecoder(const GatedPlan& plan, DecoderLoader& load,
               const LoadLayer& load_layer = load_gated_layer);
  std::optional<GatedStack> gated_stack() const final;

 protected:
  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const final;
  Tensor finish(const DecoderPass& pass, Tensor x) const final;
  // To be called once for each layer, in order, or never: a norm of every query and key head.
  void add_head_norm(const nn::HeadNorm& norm) { head_norms_.push_back(norm); }

 private:
  nn::AttentionHeads heads_;
  std::vector<int64_t> windows_;
  std::vector<GatedLayer> layers_;
  std::vector<nn::HeadNorm> head_norms_;  // of each layer, or none
  const nn::RmsNorm* final_norm_;
  mutable nn::RopeTable rope_;  // used by the one thread that runs forward()
};

}  // namespace quarry
