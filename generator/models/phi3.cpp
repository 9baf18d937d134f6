// Phi-3 and 4 (Abdin et al. 2024, arXiv:2404.14219): llama with q, k and v in one Linear, gate and
// up in another, and positions in the first part of each head only where the configuration says so.
#include <utility>

#include "data/core/error.h"
#include "generator/models/families.h"
#include "generator/models/gated_decoder.h"

namespace quarry {
namespace {

struct Phi3Plan : GatedPlan {
  int64_t rotary_dim = 0;
  int64_t window = 0;  // of all layers, 0: none
};

void read_gguf(const GgufFile& file, Phi3Plan& plan) {
  plan.config = read_gguf_config(file, "phi3");
  plan.config.norm_epsilon = file.get_float("phi3.attention.layer_norm_rms_epsilon");
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    QUARRY_CHECK(file.find(name) == nullptr, ErrorCode::kInvalidArgument, file.description(),
                 ": tensor '", name, "' (longrope) is not supported");
  }
  plan.rotary_dim = gguf_size_or(file, "phi3.rope.dimension_count", plan.config.head_dim);
  plan.window = file.find_int("phi3.attention.sliding_window").value_or(0);
  QUARRY_CHECK(plan.window >= 0, ErrorCode::kCorruptData, file.description(),
               ": 'phi3.attention.sliding_window' is ", plan.window, ", wanted 0 or more");
}

void read_json(const ConfigValues& values, Phi3Plan& plan) {
  plan.config = read_hf_config(values);
  values.require_text("hidden_act", "silu");
  plan.window = values.size_or("sliding_window", 0);
  const double part =
      values.object("rope_parameters")
          .number_or("partial_rotary_factor", values.number_or("partial_rotary_factor", 1.0));
  plan.rotary_dim = static_cast<int64_t>(static_cast<double>(plan.config.head_dim) * part);
}

Phi3Plan read_plan(const CausalLmSource& source) {
  Phi3Plan plan;
  RopeSettings rope;
  if (source.gguf != nullptr) {
    read_gguf(*source.gguf, plan);
    check_rotary_dim(plan.rotary_dim, plan.config.head_dim, source.description);
    rope = read_gguf_rope(*source.gguf, "phi3", plan.rotary_dim);
  } else {
    const ConfigValues values(*source.config, source.description);
    read_json(values, plan);
    check_rotary_dim(plan.rotary_dim, plan.config.head_dim, source.description);
    rope = read_hf_rope(values, 10000.0, plan.rotary_dim);
  }
  static_cast<GatedPlan&>(plan) = make_gated_plan(plan.config, std::move(rope));
  plan.windows.assign(plan.windows.size(), plan.window);
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const Phi3Plan& plan) {
  const CausalLmConfig& config = plan.config;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  LayoutBuilder layout(source.folder(), "model.");
  LayoutBuilder::LinearOptions plain;
  plain.bias = BiasUse::kNone;
  layout.embedding("model.embed_tokens", "token_embd", config.vocab_size, hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = hf_layer(number);
    const std::string gguf = gguf_layer(number);
    layout.rms_norm(hf + "input_layernorm", gguf + "attn_norm", hidden);
    layout.linear(hf + "self_attn.qkv_proj", gguf + "attn_qkv", hidden, q_width + 2 * kv_width,
                  plain);
    layout.linear(hf + "self_attn.o_proj", gguf + "attn_output", q_width, hidden, plain);
    layout.rms_norm(hf + "post_attention_layernorm", gguf + "ffn_norm", hidden);
    layout.linear(hf + "mlp.gate_up_proj", gguf + "ffn_up", hidden, 2 * inner, plain);
    layout.linear(hf + "mlp.down_proj", gguf + "ffn_down", inner, hidden, plain);
  }
  layout.rms_norm("model.norm", "output_norm", hidden);
  layout.head("lm_head", "output", config.vocab_size, hidden, config.tied_head);
  return layout.take();
}

GatedLayer load_layer(DecoderLoader& load, int64_t number, double epsilon) {
  const std::string path = hf_layer(number);
  return {load.rms_norm(path + "input_layernorm", epsilon),
          load.linear({path + "self_attn.qkv_proj"}),
          load.linear({path + "self_attn.o_proj"}),
          load.rms_norm(path + "post_attention_layernorm", epsilon),
          load.linear({path + "mlp.gate_up_proj"}),
          load.linear({path + "mlp.down_proj"})};
}

class Phi3 final : public GatedDecoder {
 public:
  Phi3(const Phi3Plan& plan, DecoderLoader& load) : GatedDecoder(plan, load, load_layer) {}
};

OrderedJson config_from_gguf(const GgufFile& file) {
  const Phi3Plan plan = read_plan(gguf_source(file));
  OrderedJson json = hf_config_json("Phi3ForCausalLM", "phi3", plan.config);
  json["hidden_act"] = "silu";
  json["original_max_position_embeddings"] = plan.config.max_seq_len;
  json["partial_rotary_factor"] =
      static_cast<double>(plan.rotary_dim) / static_cast<double>(plan.config.head_dim);
  if (plan.window > 0) {
    json["sliding_window"] = plan.window;
  } else {
    json["sliding_window"] = nullptr;
  }
  write_rope(plan.rope, json);
  return json;
}

}  // namespace

CausalLmFamily phi3_family() {
  return decoder_family<Phi3, read_plan, make_layout>("phi3", "Phi3ForCausalLM", config_from_gguf);
}

}  // namespace quarry
