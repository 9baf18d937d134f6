#include "generator/models/gated_decoder.h"

#include <utility>

#include "generator/nn/activations.h"
#include "generator/nn/functional.h"

namespace quarry {

GatedPlan make_gated_plan(CausalLmConfig config, RopeSettings rope) {
  GatedPlan plan;
  plan.config = std::move(config);
  plan.rope = std::move(rope);
  plan.config.rope_theta = plan.rope.theta;
  plan.windows.assign(static_cast<size_t>(plan.config.num_layers), 0);
  return plan;
}

GatedPlan read_gated_plan(const CausalLmSource& source, const std::string& architecture,
                          int64_t default_head_dim) {
  if (source.gguf != nullptr) {
    CausalLmConfig config = read_gguf_config(*source.gguf, architecture);
    config.norm_epsilon =
        source.gguf->get_float(architecture + ".attention.layer_norm_rms_epsilon");
    return make_gated_plan(config, read_gguf_rope(*source.gguf, architecture, config.head_dim));
  }
  const ConfigValues values(*source.config, source.description);
  const CausalLmConfig config = read_hf_config(values, default_head_dim);
  values.require_text("hidden_act", "silu");
  return make_gated_plan(config, read_hf_rope(values, 10000.0, config.head_dim));
}

std::vector<int64_t> read_upper_windows(const ConfigValues& values, int64_t num_layers) {
  const bool slides = values.flag_or("use_sliding_window", false);
  const int64_t first = values.size_or("max_window_layers", 28);
  return read_layer_windows(values, num_layers, slides ? values.size_or("sliding_window", 0) : 0,
                            [first](int64_t layer) { return layer >= first; });
}

GatedDecoder::GatedDecoder(const GatedPlan& plan, DecoderLoader& load, const LoadLayer& load_layer)
    : Decoder(plan.config, load),
      heads_{config_.num_heads, config_.num_kv_heads, config_.head_dim},
      windows_(plan.windows),
      rope_(plan.rope.inv_freq) {
  for (int64_t number = 0; number < config_.num_layers; ++number) {
    layers_.push_back(load_layer(load, number, config_.norm_epsilon));
  }
  final_norm_ = &load.rms_norm("model.norm", config_.norm_epsilon);
}

std::optional<GatedStack> GatedDecoder::gated_stack() const {
  GatedStack stack;
  stack.heads = heads_;
  stack.final_norm = final_norm_;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const GatedLayer& from = layers_[i];
    GatedStack::Layer layer;
    layer.attention_norm = &from.attention_norm;
    layer.qkv = &from.qkv;
    layer.head_norm = head_norms_.empty() ? nullptr : &head_norms_[i];
    layer.o = &from.o;
    layer.mlp_norm = &from.mlp_norm;
    layer.gate_up = &from.gate_up;
    layer.down = &from.down;
    layer.rope = &rope_;
    layer.window = windows_[i];
    stack.layers.push_back(layer);
  }
  return stack;
}

Decoder::Tensor GatedDecoder::run_layer(int64_t number, const DecoderPass& pass, Tensor x) const {
  const GatedLayer& layer = layers_[static_cast<size_t>(number)];
  nn::AttentionHeads heads = heads_;
  heads.window = windows_[static_cast<size_t>(number)];

  Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
  Tensor qkv = layer.qkv.forward(h, pass.adapters, workspace_);
  if (!head_norms_.empty()) {
    qkv = head_norms_[static_cast<size_t>(number)].forward(qkv, heads, pass.adapters, workspace_);
  }
  qkv = rope_.apply(qkv, pass.positions, heads.num_heads + heads.num_kv_heads, heads.head_dim);
  h = attend(qkv, heads, number, pass);
  const Spans& adapters = keep_logit_rows(number, pass, h, x);
  h = layer.o.forward(h, adapters, workspace_);
  x = nn::add(x, h, workspace_);

  h = layer.mlp_norm.forward(x, adapters, workspace_);
  h = layer.gate_up.forward(h, adapters, workspace_);
  h = nn::swiglu(h, workspace_);
  h = layer.down.forward(h, adapters, workspace_);
  return nn::add(x, h, workspace_);
}

Decoder::Tensor GatedDecoder::finish(const DecoderPass& pass, Tensor x) const {
  return final_norm_->forward(x, pass.logit_adapters, workspace_);
}

}  // namespace quarry
