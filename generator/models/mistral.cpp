// Mistral (Jiang et al. 2023, arXiv:2310.06825): llama with a sliding window over the keys. GGUF
// files of it say that they are llama.
#include <utility>

#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/models/gated_layer.h"
#include "generator/nn/functional.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

struct MistralPlan {
  CausalLmConfig config;
  RopeSettings rope;
  int64_t window = 0;  // 0: none
};

MistralPlan read_plan(const CausalLmSource& source) {
  const ConfigValues values(*source.config, source.description);
  MistralPlan plan;
  plan.config = read_hf_config(values);
  values.require_text("hidden_act", "silu");
  plan.window = values.size_or("sliding_window", 0);
  plan.rope = read_hf_rope(values, 10000.0, plan.config.head_dim);
  plan.config.rope_theta = plan.rope.theta;
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const CausalLmConfig& config) {
  LayoutBuilder layout(source.folder(), "model.");
  add_gated_layers(layout, config, GatedLayerOptions());
  return layout.take();
}

class Mistral final : public Decoder {
 public:
  Mistral(const MistralPlan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_kv_heads, config_.head_dim},
        rope_(plan.rope.inv_freq) {
    heads_.window = plan.window;
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

std::unique_ptr<CausalLm> make_mistral(const CausalLmSource& source, kernels::Precision precision) {
  const MistralPlan plan = read_plan(source);
  const ModelLayout layout = make_layout(source, plan.config);
  DecoderLoader load(source, layout, precision);
  return std::make_unique<Mistral>(plan, load);
}

ModelLayout mistral_layout(const CausalLmSource& source) {
  return make_layout(source, read_plan(source).config);
}

}  // namespace

CausalLmFamily mistral_family() {
  return {nullptr, "MistralForCausalLM", make_mistral, mistral_layout, nullptr};
}

}  // namespace quarry
