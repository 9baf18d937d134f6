// Qwen2 and 2.5 (Yang et al. 2024, arXiv:2407.10671): llama with biases of q, k and v, and in some
// configurations a sliding window in the upper layers.
#include "generator/models/families.h"
#include "generator/models/gated_decoder.h"

namespace quarry {
namespace {

GatedPlan read_plan(const CausalLmSource& source) {
  GatedPlan plan = read_gated_plan(source, "qwen2");
  if (source.config != nullptr) {
    plan.windows = read_upper_windows(ConfigValues(*source.config, source.description),
                                      plan.config.num_layers);
  }
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const GatedPlan& plan) {
  LayoutBuilder layout(source.folder(), "model.");
  GatedLayerOptions options;
  options.qkv_bias = BiasUse::kRequired;
  options.other_bias = BiasUse::kNone;
  add_gated_layers(layout, plan.config, options);
  return layout.take();
}

OrderedJson config_from_gguf(const GgufFile& file) {
  const GatedPlan plan = read_plan(gguf_source(file));
  OrderedJson json = hf_config_json("Qwen2ForCausalLM", "qwen2", plan.config);
  json["hidden_act"] = "silu";
  json["use_sliding_window"] = false;
  write_rope(plan.rope, json);
  return json;
}

}  // namespace

CausalLmFamily qwen2_family() {
  return decoder_family<GatedDecoder, read_plan, make_layout>("qwen2", "Qwen2ForCausalLM",
                                                              config_from_gguf);
}

}  // namespace quarry
