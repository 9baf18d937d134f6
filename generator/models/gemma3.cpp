// Gemma 3, text only (Gemma Team 2025, arXiv:2503.19786): norms around both blocks whose weights
// count from 1, norms of the query and key heads, GEGLU, a scaled embedding, and five layers with a
// sliding window and short rotary waves for each that sees everything.
#include <cmath>
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/models/gated_layer.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

constexpr float kNormOffset = 1.0f;   // of every norm's weight
constexpr int64_t kWindowPeriod = 6;  // every sixth layer sees all

struct Gemma3Plan {
  CausalLmConfig config;
  RopeSettings global_rope;
  RopeSettings local_rope;
  std::vector<int64_t> windows;  // of the layers, 0: all is seen
  double query_scalar = 0.0;     // scores are divided by its root
};

void read_gguf(const GgufFile& file, Gemma3Plan& plan) {
  CausalLmConfig& config = plan.config;
  config = read_gguf_config(file, "gemma3");
  config.norm_epsilon = file.get_float("gemma3.attention.layer_norm_rms_epsilon");
  for (const char* key : {"gemma3.final_logit_softcapping", "gemma3.attn_logit_softcapping"}) {
    const double cap = file.find_float(key).value_or(0.0);
    QUARRY_CHECK(cap == 0.0, ErrorCode::kInvalidArgument, file.description(), ": '", key, "' is ",
                 cap, ", only 0 is supported");
  }
  plan.global_rope = read_gguf_rope(file, "gemma3", config.head_dim);
  plan.local_rope.theta = file.find_float("gemma3.rope.freq_base_swa").value_or(10000.0);
  plan.local_rope.inv_freq = nn::rope_inv_freq(plan.local_rope.theta, config.head_dim);
  const int64_t window = gguf_size(file, "gemma3.attention.sliding_window");
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    plan.windows.push_back((layer + 1) % kWindowPeriod == 0 ? 0 : window);
  }
  // GGUF does not hold it: the 27B model, which has 62 layers, is the one with another.
  constexpr int64_t kLayersOf27B = 62;
  plan.query_scalar = static_cast<double>(
      config.num_layers == kLayersOf27B ? config.hidden_size / config.num_heads : config.head_dim);
}

void read_json(const ConfigValues& values, Gemma3Plan& plan) {
  CausalLmConfig& config = plan.config;
  config = read_hf_config(values, 256);
  config.tied_head = values.flag_or("tie_word_embeddings", true);
  values.require_text("hidden_activation", "gelu_pytorch_tanh");
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping"}) {
    values.require_absent(key);
  }
  QUARRY_CHECK(!values.flag_or("use_bidirectional_attention", false), ErrorCode::kInvalidArgument,
               values.source(),
               ": 'use_bidirectional_attention' is true, which a generator is not");
  plan.query_scalar = values.number_or("query_pre_attn_scalar", 256.0);
  QUARRY_CHECK(plan.query_scalar > 0.0, ErrorCode::kCorruptData, values.source(),
               ": 'query_pre_attn_scalar' is ", plan.query_scalar, ", wanted a positive number");
  const int64_t period = values.size_or("sliding_window_pattern", kWindowPeriod);
  plan.windows =
      read_layer_windows(values, config.num_layers, values.size_or("sliding_window", 4096),
                         [period](int64_t layer) { return (layer + 1) % period != 0; });
  const ConfigValues rope = values.object("rope_parameters");
  if (rope.empty()) {
    plan.global_rope = read_hf_rope(values, 1e6, config.head_dim);
    plan.local_rope.theta = values.number_or("rope_local_base_freq", 10000.0);
    plan.local_rope.inv_freq = nn::rope_inv_freq(plan.local_rope.theta, config.head_dim);
  } else {
    plan.global_rope = read_rope_parameters(rope.object("full_attention"), 1e6, config.head_dim);
    plan.local_rope =
        read_rope_parameters(rope.object("sliding_attention"), 10000.0, config.head_dim);
  }
}

Gemma3Plan read_plan(const CausalLmSource& source) {
  Gemma3Plan plan;
  if (source.gguf != nullptr) {
    read_gguf(*source.gguf, plan);
  } else {
    read_json(ConfigValues(*source.config, source.description), plan);
  }
  plan.config.rope_theta = plan.global_rope.theta;
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const Gemma3Plan& plan) {
  const CausalLmConfig& config = plan.config;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  LayoutBuilder layout(source.folder(), "model.");
  layout.embedding("model.embed_tokens", "token_embd", config.vocab_size, hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = hf_layer(number);
    const std::string gguf = gguf_layer(number);
    layout.rms_norm(hf + "input_layernorm", gguf + "attn_norm", hidden, kNormOffset);
    layout.linear(hf + "self_attn.q_proj", gguf + "attn_q", hidden, q_width);
    layout.linear(hf + "self_attn.k_proj", gguf + "attn_k", hidden, kv_width);
    layout.linear(hf + "self_attn.v_proj", gguf + "attn_v", hidden, kv_width);
    layout.rms_norm(hf + "self_attn.q_norm", gguf + "attn_q_norm", config.head_dim, kNormOffset);
    layout.rms_norm(hf + "self_attn.k_norm", gguf + "attn_k_norm", config.head_dim, kNormOffset);
    layout.linear(hf + "self_attn.o_proj", gguf + "attn_output", q_width, hidden);
    layout.rms_norm(hf + "post_attention_layernorm", gguf + "post_attention_norm", hidden,
                    kNormOffset);
    layout.rms_norm(hf + "pre_feedforward_layernorm", gguf + "ffn_norm", hidden, kNormOffset);
    layout.linear(hf + "mlp.gate_proj", gguf + "ffn_gate", hidden, inner);
    layout.linear(hf + "mlp.up_proj", gguf + "ffn_up", hidden, inner);
    layout.linear(hf + "mlp.down_proj", gguf + "ffn_down", inner, hidden);
    layout.rms_norm(hf + "post_feedforward_layernorm", gguf + "post_ffw_norm", hidden, kNormOffset);
  }
  layout.rms_norm("model.norm", "output_norm", hidden, kNormOffset);
  layout.head("lm_head", "output", config.vocab_size, hidden, config.tied_head);
  return layout.take();
}

struct Gemma3Layer {
  const nn::RmsNorm& attention_norm;  // [E]
  const nn::Linear& qkv;              // E -> (H + 2 K) D
  nn::HeadNorm head_norm;             // [D]
  const nn::Linear& o;                // H D -> E
  const nn::RmsNorm& after_attention_norm;
  const nn::RmsNorm& mlp_norm;
  const nn::Linear& gate_up;  // E -> 2 F
  const nn::Linear& down;     // F -> E
  const nn::RmsNorm& after_mlp_norm;
};

class Gemma3 final : public Decoder {
 public:
  Gemma3(const Gemma3Plan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_kv_heads, config_.head_dim},
        windows_(plan.windows),
        embedding_scale_(std::sqrt(static_cast<float>(config_.hidden_size))),
        global_rope_(plan.global_rope.inv_freq),
        local_rope_(plan.local_rope.inv_freq) {
    heads_.scale = static_cast<float>(1.0 / std::sqrt(plan.query_scalar));
    const auto norm = [&](const std::string& path) -> const nn::RmsNorm& {
      return load.rms_norm(path, config_.norm_epsilon, kNormOffset);
    };
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string path = hf_layer(number);
      const std::string attention = path + "self_attn.";
      const std::string mlp = path + "mlp.";
      layers_.push_back(
          {norm(path + "input_layernorm"),
           load.linear({attention + "q_proj", attention + "k_proj", attention + "v_proj"}),
           nn::HeadNorm(norm(attention + "q_norm"), norm(attention + "k_norm")),
           load.linear({attention + "o_proj"}), norm(path + "post_attention_layernorm"),
           norm(path + "pre_feedforward_layernorm"),
           load.linear({mlp + "gate_proj", mlp + "up_proj"}), load.linear({mlp + "down_proj"}),
           norm(path + "post_feedforward_layernorm")});
    }
    final_norm_ = &norm("model.norm");
  }

  std::optional<GatedStack> gated_stack() const override {
    GatedStack stack;
    stack.heads = heads_;
    stack.embedding_scale = embedding_scale_;
    stack.gate = GatedStack::Gate::kGeluTanh;
    stack.final_norm = final_norm_;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Gemma3Layer& from = layers_[i];
      const bool is_global = windows_[i] == 0;
      stack.layers.push_back({&from.attention_norm, &from.qkv, &from.head_norm, &from.o,
                              &from.after_attention_norm, &from.mlp_norm, &from.gate_up, &from.down,
                              &from.after_mlp_norm, is_global ? &global_rope_ : &local_rope_,
                              windows_[i]});
    }
    return stack;
  }

 protected:
  Tensor embed(const DecoderPass& pass) const override {
    return nn::scale(embed_tokens(pass), embedding_scale_, workspace_);
  }

  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const Gemma3Layer& layer = layers_[static_cast<size_t>(number)];
    nn::AttentionHeads heads = heads_;
    heads.window = windows_[static_cast<size_t>(number)];
    nn::RopeTable& rope = heads.window == 0 ? global_rope_ : local_rope_;

    Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
    Tensor qkv = layer.qkv.forward(h, pass.adapters, workspace_);
    qkv = layer.head_norm.forward(qkv, heads, pass.adapters, workspace_);
    qkv = rope.apply(qkv, pass.positions, heads.num_heads + heads.num_kv_heads, heads.head_dim);
    h = attend(qkv, heads, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = layer.o.forward(h, adapters, workspace_);
    h = layer.after_attention_norm.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);

    h = layer.mlp_norm.forward(x, adapters, workspace_);
    h = layer.gate_up.forward(h, adapters, workspace_);
    h = nn::geglu_tanh(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    h = layer.after_mlp_norm.forward(h, adapters, workspace_);
    return nn::add(x, h, workspace_);
  }

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    return final_norm_->forward(x, pass.logit_adapters, workspace_);
  }

 private:
  nn::AttentionHeads heads_;
  std::vector<int64_t> windows_;
  float embedding_scale_;
  std::vector<Gemma3Layer> layers_;
  const nn::RmsNorm* final_norm_;
  // Used by the one thread that runs forward().
  mutable nn::RopeTable global_rope_;
  mutable nn::RopeTable local_rope_;
};

OrderedJson config_from_gguf(const GgufFile& file) {
  const Gemma3Plan plan = read_plan(gguf_source(file));
  OrderedJson json = hf_config_json("Gemma3ForCausalLM", "gemma3_text", plan.config);
  json["hidden_activation"] = "gelu_pytorch_tanh";
  json["attention_bias"] = false;
  json["query_pre_attn_scalar"] = plan.query_scalar;
  json["sliding_window"] = plan.windows.front();
  json["layer_types"] = OrderedJson::array();
  for (const int64_t window : plan.windows) {
    json["layer_types"].push_back(window > 0 ? "sliding_attention" : "full_attention");
  }
  write_rope(plan.global_rope, json);
  json["rope_local_base_freq"] = shortest(plan.local_rope.theta);
  return json;
}

}  // namespace

CausalLmFamily gemma3_family() {
  return decoder_family<Gemma3, read_plan, make_layout>("gemma3", "Gemma3ForCausalLM",
                                                        config_from_gguf);
}

}  // namespace quarry
