// Qwen3 (Yang et al. 2025, arXiv:2505.09388): llama with a norm of every query and key head, and in
// some configurations a sliding window in the upper layers.
#include <utility>
#include <vector>

#include "generator/models/families.h"
#include "generator/models/gated_decoder.h"
#include "generator/nn/head_norm.h"

namespace quarry {
namespace {

constexpr int64_t kDefaultHeadDim = 128;

GatedPlan read_plan(const CausalLmSource& source) {
  GatedPlan plan = read_gated_plan(source, "qwen3", kDefaultHeadDim);
  if (source.config != nullptr) {
    plan.windows = read_upper_windows(ConfigValues(*source.config, source.description),
                                      plan.config.num_layers);
  }
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const GatedPlan& plan) {
  LayoutBuilder layout(source.folder(), "model.");
  add_gated_layers(layout, plan.config, GatedLayerOptions());
  for (int64_t number = 0; number < plan.config.num_layers; ++number) {
    const std::string hf = hf_layer(number);
    const std::string gguf = gguf_layer(number);
    layout.rms_norm(hf + "self_attn.q_norm", gguf + "attn_q_norm", plan.config.head_dim);
    layout.rms_norm(hf + "self_attn.k_norm", gguf + "attn_k_norm", plan.config.head_dim);
  }
  return layout.take();
}

class Qwen3 final : public GatedDecoder {
 public:
  Qwen3(const GatedPlan& plan, DecoderLoader& load) : GatedDecoder(plan, load) {
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string attention = hf_layer(number) + "self_attn.";
      add_head_norm({load.rms_norm(attention + "q_norm", config_.norm_epsilon),
                     load.rms_norm(attention + "k_norm", config_.norm_epsilon)});
    }
  }
};

OrderedJson config_from_gguf(const GgufFile& file) {
  const GatedPlan plan = read_plan(gguf_source(file));
  OrderedJson json = hf_config_json("Qwen3ForCausalLM", "qwen3", plan.config);
  json["hidden_act"] = "silu";
  json["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  json["use_sliding_window"] = false;
  write_rope(plan.rope, json);
  return json;
}

}  // namespace

CausalLmFamily qwen3_family() {
  return decoder_family<Qwen3, read_plan, make_layout>("qwen3", "Qwen3ForCausalLM",
                                                       config_from_gguf);
}

}  // namespace quarry
