// GPT-NeoX and Pythia (Black et al. 2022, arXiv:2204.06745): LayerNorm, rotary positions in the
// first part of each head, and attention and feed-forward side by side on the same residual.
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

struct GptNeoxPlan {
  CausalLmConfig config;
  RopeSettings rope;
  int64_t rotary_dim = 0;
  bool parallel_residual = true;
  Activation activation = nn::gelu;
};

void read_gguf(const GgufFile& file, GptNeoxPlan& plan) {
  plan.config = read_gguf_config(file, "gptneox");
  plan.config.norm_epsilon = file.get_float("gptneox.attention.layer_norm_epsilon");
  plan.parallel_residual = file.find_bool("gptneox.use_parallel_residual").value_or(true);
  plan.rotary_dim = gguf_size_or(file, "gptneox.rope.dimension_count", plan.config.head_dim);
  check_rotary_dim(plan.rotary_dim, plan.config.head_dim, file.description());
  plan.rope = read_gguf_rope(file, "gptneox", plan.rotary_dim);
}

void read_json(const ConfigValues& values, GptNeoxPlan& plan) {
  plan.config = read_hf_config(values);
  plan.config.norm_epsilon = values.number_or("layer_norm_eps", 1e-5);
  plan.parallel_residual = values.flag_or("use_parallel_residual", true);
  plan.activation = read_activation(values, "hidden_act", "gelu");
  const double part = values.object("rope_parameters")
                          .number_or("partial_rotary_factor", values.number_or("rotary_pct", 0.25));
  plan.rotary_dim = static_cast<int64_t>(static_cast<double>(plan.config.head_dim) * part);
  check_rotary_dim(plan.rotary_dim, plan.config.head_dim, values.source());
  plan.rope = read_hf_rope(values, values.number_or("rotary_emb_base", 10000.0), plan.rotary_dim);
}

GptNeoxPlan read_plan(const CausalLmSource& source) {
  GptNeoxPlan plan;
  if (source.gguf != nullptr) {
    read_gguf(*source.gguf, plan);
  } else {
    read_json(ConfigValues(*source.config, source.description), plan);
  }
  plan.config.rope_theta = plan.rope.theta;
  check_whole_heads(plan.config, source.description);
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const GptNeoxPlan& plan) {
  const CausalLmConfig& config = plan.config;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  LayoutBuilder::LinearOptions qkv;
  qkv.gguf_rows = rows_by_head(config.num_heads, config.head_dim);
  LayoutBuilder::LinearOptions biased;
  biased.bias = BiasUse::kRequired;
  LayoutBuilder layout(source.folder(), "gpt_neox.");
  layout.embedding("gpt_neox.embed_in", "token_embd", config.vocab_size, hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = "gpt_neox.layers." + std::to_string(number) + ".";
    const std::string gguf = "blk." + std::to_string(number) + ".";
    layout.layer_norm(hf + "input_layernorm", gguf + "attn_norm", hidden);
    layout.linear(hf + "attention.query_key_value", gguf + "attn_qkv", hidden, 3 * hidden, qkv);
    layout.linear(hf + "attention.dense", gguf + "attn_output", hidden, hidden);
    layout.layer_norm(hf + "post_attention_layernorm", gguf + "ffn_norm", hidden);
    layout.linear(hf + "mlp.dense_h_to_4h", gguf + "ffn_up", hidden, inner, biased);
    layout.linear(hf + "mlp.dense_4h_to_h", gguf + "ffn_down", inner, hidden, biased);
  }
  layout.layer_norm("gpt_neox.final_layer_norm", "output_norm", hidden);
  layout.head("embed_out", "output", config.vocab_size, hidden, config.tied_head);
  return layout.take();
}

struct GptNeoxLayer {
  const nn::LayerNorm& attention_norm;  // [E]
  const nn::Linear& qkv;                // E -> 3 E, by head
  const nn::Linear& attention_output;   // E -> E
  const nn::LayerNorm& mlp_norm;        // [E]
  const nn::Linear& up;                 // E -> F
  const nn::Linear& down;               // F -> E
};

class GptNeox final : public Decoder {
 public:
  GptNeox(const GptNeoxPlan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_heads, config_.head_dim},
        parallel_residual_(plan.parallel_residual),
        activation_(plan.activation),
        rope_(plan.rope.inv_freq) {
    const double epsilon = config_.norm_epsilon;
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string path = "gpt_neox.layers." + std::to_string(number) + ".";
      layers_.push_back({load.layer_norm(path + "input_layernorm", epsilon),
                         load.linear({path + "attention.query_key_value"}),
                         load.linear({path + "attention.dense"}),
                         load.layer_norm(path + "post_attention_layernorm", epsilon),
                         load.linear({path + "mlp.dense_h_to_4h"}),
                         load.linear({path + "mlp.dense_4h_to_h"})});
    }
    final_norm_ = &load.layer_norm("gpt_neox.final_layer_norm", epsilon);
  }

 protected:
  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const GptNeoxLayer& layer = layers_[static_cast<size_t>(number)];
    Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
    Tensor qkv = layer.qkv.forward(h, pass.adapters, workspace_);
    qkv = nn::split_heads(qkv, heads_.num_heads, heads_.head_dim, workspace_);
    qkv = rope_.apply(qkv, pass.positions, 2 * heads_.num_heads, heads_.head_dim);
    h = attend(qkv, heads_, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = layer.attention_output.forward(h, adapters, workspace_);

    const Tensor after_attention = nn::add(x, h, workspace_);
    h = layer.mlp_norm.forward(parallel_residual_ ? x : after_attention, adapters, workspace_);
    h = layer.up.forward(h, adapters, workspace_);
    h = activation_(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    return nn::add(after_attention, h, workspace_);
  }

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    return final_norm_->forward(x, pass.logit_adapters, workspace_);
  }

 private:
  nn::AttentionHeads heads_;
  bool parallel_residual_;
  Activation activation_;
  std::vector<GptNeoxLayer> layers_;
  const nn::LayerNorm* final_norm_;
  mutable nn::RopeTable rope_;  // used by the one thread that runs forward()
};

OrderedJson config_from_gguf(const GgufFile& file) {
  const GptNeoxPlan plan = read_plan(gguf_source(file));
  OrderedJson json = hf_config_json("GPTNeoXForCausalLM", "gpt_neox", plan.config);
  json.erase("rms_norm_eps");
  json["layer_norm_eps"] = shortest(plan.config.norm_epsilon);
  json["hidden_act"] = "gelu";
  json["use_parallel_residual"] = plan.parallel_residual;
  json["attention_bias"] = file.find("blk.0.attn_qkv.bias") != nullptr;
  json["rotary_pct"] =
      static_cast<double>(plan.rotary_dim) / static_cast<double>(plan.config.head_dim);
  json["rotary_emb_base"] = shortest(plan.rope.theta);
  write_rope(plan.rope, json);
  return json;
}

}  // namespace

CausalLmFamily gpt_neox_family() {
  return decoder_family<GptNeox, read_plan, make_layout>("gptneox", "GPTNeoXForCausalLM",
                                                         config_from_gguf);
}

}  // namespace quarry
