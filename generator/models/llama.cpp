// The llama family (Touvron et al. 2023, arXiv:2302.13971): pre-norm decoder with RMSNorm, rotary
// positions, grouped-query attention and SwiGLU.
#include "data/core/error.h"
#include "generator/models/families.h"
#include "generator/models/gated_decoder.h"

namespace quarry {
namespace {

GatedPlan read_plan(const CausalLmSource& source) { return read_gated_plan(source, "llama"); }

ModelLayout make_layout(const CausalLmSource& source, const GatedPlan& plan) {
  LayoutBuilder layout(source.folder(), "model.");
  GatedLayerOptions options;
  options.gguf_interleaves_q_k = true;
  add_gated_layers(layout, plan.config, options);
  return layout.take();
}

OrderedJson config_from_gguf(const GgufFile& file) {
  const GatedPlan plan = read_plan(gguf_source(file));
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
  return decoder_family<GatedDecoder, read_plan, make_layout>("llama", "LlamaForCausalLM",
                                                              config_from_gguf);
}

}  // namespace quarry
