// Qwen3 (Yang et al. 2025, arXiv:2505.09388): llama with a norm of every query and key head, and in
// some configurations a sliding window in the upper layers.
#include <utility>

#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/models/gated_layer.h"
#include "generator/nn/functional.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

struct Qwen3Plan {
  CausalLmConfig config;
  RopeSettings rope;
  std::vector<int64_t> windows;  // of the layers, 0: none
};

Qwen3Plan read_plan(const CausalLmSource& source) {
  Qwen3Plan plan;
  if (source.gguf != nullptr) {
    plan.config = read_gguf_config(*source.gguf, "qwen3");
    plan.config.norm_epsilon = source.gguf->get_float("qwen3.attention.layer_norm_rms_epsilon");
    plan.rope = read_gguf_rope(*source.gguf, "qwen3", plan.config.head_dim);
    plan.windows.resize(static_cast<size_t>(plan.config.num_layers), 0);
  } else {
    const ConfigValues values(*source.config, source.description);
    plan.config = read_hf_config(values);
    plan.config.head_dim = values.size_or("head_dim", 128);
    check_config(plan.config, values.source());
    values.require_text("hidden_act", "silu");
    const bool slides = values.flag_or("use_sliding_window", false);
    const int64_t first = values.size_or("max_window_layers", 28);
    plan.windows = read_layer_windows(values, plan.config.num_layers,
                                      slides ? values.size_or("sliding_window", 0) : 0,
                                      [first](int64_t layer) { return layer >= first; });
    plan.rope = read_hf_rope(values, 10000.0, plan.config.head_dim);
  }
  plan.config.rope_theta = plan.rope.theta;
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const CausalLmConfig& config) {
  LayoutBuilder layout(source.folder(), "model.");
  add_gated_layers(layout, config, GatedLayerOptions());
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = hf_layer(number);
    const std::string gguf = gguf_layer(number);
    layout.rms_norm(hf + "self_attn.q_norm", gguf + "attn_q_norm", config.head_dim);
    layout.rms_norm(hf + "self_attn.k_norm", gguf + "attn_k_norm", config.head_dim);
  }
  return layout.take();
}

class Qwen3 final : public Decoder {
 public:
  Qwen3(const Qwen3Plan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_kv_heads, config_.head_dim},
        windows_(plan.windows),
        rope_(plan.rope.inv_freq) {
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string attention = hf_layer(number) + "self_attn.";
      layers_.push_back(load_gated_layer(load, number, config_.norm_epsilon));
      head_norms_.emplace_back(load.rms_norm(attention + "q_norm", config_.norm_epsilon),
                               load.rms_norm(attention + "k_norm", config_.norm_epsilon));
    }
    final_norm_ = &load.rms_norm("model.norm", config_.norm_epsilon);
  }

 protected:
  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const GatedLayer& layer = layers_[static_cast<size_t>(number)];
    Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
    Tensor qkv = layer.qkv.forward(h, pass.adapters, workspace_);
    qkv = head_norms_[static_cast<size_t>(number)].forward(qkv, heads_, pass.adapters, workspace_);
    qkv = rope_.apply(qkv, pass.positions, heads_.num_heads + heads_.num_kv_heads, heads_.head_dim);
    nn::AttentionHeads heads = heads_;
    heads.window = windows_[static_cast<size_t>(number)];
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

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    return final_norm_->forward(x, pass.logit_adapters, workspace_);
  }

 private:
  nn::AttentionHeads heads_;
  std::vector<int64_t> windows_;
  std::vector<GatedLayer> layers_;
  std::vector<nn::HeadNorm> head_norms_;
  const nn::RmsNorm* final_norm_;
  mutable nn::RopeTable rope_;  // used by the one thread that runs forward()
};

std::unique_ptr<CausalLm> make_qwen3(const CausalLmSource& source, kernels::Precision precision) {
  const Qwen3Plan plan = read_plan(source);
  const ModelLayout layout = make_layout(source, plan.config);
  DecoderLoader load(source, layout, precision);
  return std::make_unique<Qwen3>(plan, load);
}

ModelLayout qwen3_layout(const CausalLmSource& source) {
  return make_layout(source, read_plan(source).config);
}

OrderedJson qwen3_config_from_gguf(const GgufFile& file) {
  const Qwen3Plan plan = read_plan(gguf_source(file));
  OrderedJson json = hf_config_json("Qwen3ForCausalLM", "qwen3", plan.config);
  json["hidden_act"] = "silu";
  json["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  json["use_sliding_window"] = false;
  write_rope(plan.rope, json);
  return json;
}

}  // namespace

CausalLmFamily qwen3_family() {
  return {"qwen3", "Qwen3ForCausalLM", make_qwen3, qwen3_layout, qwen3_config_from_gguf};
}

}  // namespace quarry
