// GPT-2 (Radford et al. 2019): pre-norm decoder with LayerNorm, learned positions and GELU. Its
// Linears are Conv1D in Hugging Face's folders, stored as [in, out].
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"

namespace quarry {
namespace {

struct Gpt2Plan {
  CausalLmConfig config;
  Activation activation = nn::gelu_tanh;
};

Gpt2Plan read_plan(const CausalLmSource& source) {
  Gpt2Plan plan;
  CausalLmConfig& config = plan.config;
  if (source.gguf != nullptr) {
    config = read_gguf_config(*source.gguf, "gpt2");
    config.norm_epsilon = source.gguf->get_float("gpt2.attention.layer_norm_epsilon");
  } else {
    const ConfigValues values(*source.config, source.description);
    config.architecture = "gpt2";
    config.hidden_size = values.size("n_embd");
    config.intermediate_size = values.size_or("n_inner", 4 * config.hidden_size);
    config.num_layers = values.size("n_layer");
    config.num_heads = config.num_kv_heads = values.size("n_head");
    config.head_dim = config.hidden_size / config.num_heads;
    config.vocab_size = values.size("vocab_size");
    config.max_seq_len = values.size_or("n_positions", 1024);
    config.norm_epsilon = values.number_or("layer_norm_epsilon", 1e-5);
    config.tied_head = values.flag_or("tie_word_embeddings", true);
    plan.activation = read_activation(values, "activation_function", "gelu_new");
    QUARRY_CHECK(values.flag_or("scale_attn_weights", true) &&
                     !values.flag_or("scale_attn_by_inverse_layer_idx", false),
                 ErrorCode::kInvalidArgument, values.source(),
                 ": scale_attn_weights false and scale_attn_by_inverse_layer_idx true are not "
                 "supported");
  }
  check_config(config, source.description);
  check_whole_heads(config, source.description);
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const Gpt2Plan& plan) {
  const CausalLmConfig& config = plan.config;
  const int64_t hidden = config.hidden_size;
  LayoutBuilder::LinearOptions conv1d;
  conv1d.bias = BiasUse::kRequired;
  conv1d.is_conv1d = true;
  LayoutBuilder layout(source.folder(), "transformer.");
  layout.embedding("transformer.wte", "token_embd", config.vocab_size, hidden);
  layout.table("transformer.wpe", "position_embd", config.max_seq_len, hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = "transformer.h." + std::to_string(number) + ".";
    const std::string gguf = "blk." + std::to_string(number) + ".";
    layout.layer_norm(hf + "ln_1", gguf + "attn_norm", hidden);
    layout.linear(hf + "attn.c_attn", gguf + "attn_qkv", hidden, 3 * hidden, conv1d);
    layout.linear(hf + "attn.c_proj", gguf + "attn_output", hidden, hidden, conv1d);
    layout.layer_norm(hf + "ln_2", gguf + "ffn_norm", hidden);
    layout.linear(hf + "mlp.c_fc", gguf + "ffn_up", hidden, config.intermediate_size, conv1d);
    layout.linear(hf + "mlp.c_proj", gguf + "ffn_down", config.intermediate_size, hidden, conv1d);
  }
  layout.layer_norm("transformer.ln_f", "output_norm", hidden);
  layout.head("lm_head", "output", config.vocab_size, hidden, config.tied_head);
  return layout.take();
}

struct Gpt2Layer {
  const nn::LayerNorm& attention_norm;  // [E]
  const nn::Linear& qkv;                // E -> 3 E
  const nn::Linear& attention_output;   // E -> E
  const nn::LayerNorm& mlp_norm;        // [E]
  const nn::Linear& up;                 // E -> F
  const nn::Linear& down;               // F -> E
};

class Gpt2 final : public Decoder {
 public:
  Gpt2(const Gpt2Plan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_heads, config_.head_dim},
        activation_(plan.activation),
        positions_(load.table("transformer.wpe")) {
    const double epsilon = config_.norm_epsilon;
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string path = "transformer.h." + std::to_string(number) + ".";
      layers_.push_back({load.layer_norm(path + "ln_1", epsilon),
                         load.linear({path + "attn.c_attn"}), load.linear({path + "attn.c_proj"}),
                         load.layer_norm(path + "ln_2", epsilon), load.linear({path + "mlp.c_fc"}),
                         load.linear({path + "mlp.c_proj"})});
    }
    final_norm_ = &load.layer_norm("transformer.ln_f", epsilon);
  }

 protected:
  Tensor embed(const DecoderPass& pass) const override {
    return nn::add(embed_tokens(pass), positions_.forward(pass.positions, workspace_), workspace_);
  }

  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const Gpt2Layer& layer = layers_[static_cast<size_t>(number)];
    Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
    h = layer.qkv.forward(h, pass.adapters, workspace_);
    h = attend(h, heads_, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = layer.attention_output.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);

    h = layer.mlp_norm.forward(x, adapters, workspace_);
    h = layer.up.forward(h, adapters, workspace_);
    h = activation_(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    return nn::add(x, h, workspace_);
  }

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    return final_norm_->forward(x, pass.logit_adapters, workspace_);
  }

 private:
  nn::AttentionHeads heads_;
  Activation activation_;
  const nn::Embedding& positions_;  // [max_seq_len, E]
  std::vector<Gpt2Layer> layers_;
  const nn::LayerNorm* final_norm_;
};

OrderedJson config_from_gguf(const GgufFile& file) {
  const CausalLmConfig config = read_plan(gguf_source(file)).config;
  OrderedJson json;
  json["architectures"] = {"GPT2LMHeadModel"};
  json["model_type"] = "gpt2";
  json["n_embd"] = config.hidden_size;
  json["n_inner"] = config.intermediate_size;
  json["n_layer"] = config.num_layers;
  json["n_head"] = config.num_heads;
  json["n_positions"] = config.max_seq_len;
  json["vocab_size"] = config.vocab_size;
  json["layer_norm_epsilon"] = shortest(config.norm_epsilon);
  json["activation_function"] = "gelu_new";
  json["tie_word_embeddings"] = config.tied_head;
  return json;
}

}  // namespace

CausalLmFamily gpt2_family() {
  return decoder_family<Gpt2, read_plan, make_layout>("gpt2", "GPT2LMHeadModel", config_from_gguf);
}

}  // namespace quarry
