// The llama family (Touvron et al. 2023, arXiv:2302.13971): pre-norm decoder with RMSNorm, rotary
// positions, grouped-query attention and SwiGLU.
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/models/gated_layer.h"
#include "generator/nn/functional.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

struct LlamaPlan {
  CausalLmConfig config;
  RopeSettings rope;
};

LlamaPlan read_plan(const CausalLmSource& source) {
  LlamaPlan plan;
  if (source.gguf != nullptr) {
    plan.config = read_gguf_config(*source.gguf, "llama");
    plan.config.norm_epsilon = source.gguf->get_float("llama.attention.layer_norm_rms_epsilon");
    plan.rope = read_gguf_rope(*source.gguf, "llama", plan.config.head_dim);
  } else {
    const ConfigValues values(*source.config, source.description);
    plan.config = read_hf_config(values);
    values.require_text("hidden_act", "silu");
    plan.rope = read_hf_rope(values, 10000.0, plan.config.head_dim);
  }
  plan.config.rope_theta = plan.rope.theta;
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const CausalLmConfig& config) {
  LayoutBuilder layout(source.folder(), "model.");
  GatedLayerOptions options;
  options.gguf_interleaves_q_k = true;
  add_gated_layers(layout, config, options);
  return layout.take();
}

class Llama final : public Decoder {
 public:
  Llama(const LlamaPlan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_kv_heads, config_.head_dim},
        rope_(plan.rope.inv_freq) {
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      layers_.push_back(load_gated_layer(load, number, config_.norm_epsilon));
    }
    final_norm_ = &load.rms_norm("model.norm", config_.norm_epsilon);
  }

 protected:
  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const GatedLayer& layer = layers_[static_cast<size_t>(number)];
    Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
    Tensor qkv = layer.qkv.forward(h, pass.adapters, workspace_);
    qkv = rope_.apply(qkv, pass.positions, heads_.num_heads + heads_.num_kv_heads, heads_.head_dim);
    h = attend(qkv, heads_, number, pass);
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
  std::vector<GatedLayer> layers_;
  const nn::RmsNorm* final_norm_;
  mutable nn::RopeTable rope_;  // used by the one thread that runs forward()
};

std::unique_ptr<CausalLm> make_llama(const CausalLmSource& source, kernels::Precision precision) {
  const LlamaPlan plan = read_plan(source);
  const ModelLayout layout = make_layout(source, plan.config);
  DecoderLoader load(source, layout, precision);
  return std::make_unique<Llama>(plan, load);
}

ModelLayout llama_layout(const CausalLmSource& source) {
  return make_layout(source, read_plan(source).config);
}

OrderedJson llama_config_from_gguf(const GgufFile& file) {
  const LlamaPlan plan = read_plan(gguf_source(file));
  QUARRY_CHECK(file.find("rope_freqs.weight") == nullptr, ErrorCode::kInvalidArgument,
               file.description(), ": tensor 'rope_freqs.weight' has no place in config.json");
  OrderedJson json = hf_config_json("LlamaForCausalLM", "llama", plan.config);
  json["hidden_act"] = "silu";
  json["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  json["mlp_bias"] = file.find("blk.0.ffn_gate.bias") != nullptr;
  write_rope(plan.rope, json);
  return json;
}

}  // namespace

CausalLmFamily llama_family() {
  return {"llama", "LlamaForCausalLM", make_llama, llama_layout, llama_config_from_gguf};
}

}  // namespace quarry
