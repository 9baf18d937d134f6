#include "generator/models/gated_layer.h"

namespace quarry {

std::string hf_layer(int64_t number) { return "model.layers." + std::to_string(number) + "."; }
std::string gguf_layer(int64_t number) { return "blk." + std::to_string(number) + "."; }

void add_gated_layers(LayoutBuilder& layout, const CausalLmConfig& config,
                      const GatedLayerOptions& options) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  LayoutBuilder::LinearOptions plain;
  plain.bias = options.other_bias;
  LayoutBuilder::LinearOptions v;
  v.bias = options.qkv_bias;
  LayoutBuilder::LinearOptions q = v;
  LayoutBuilder::LinearOptions k = v;
  if (options.gguf_interleaves_q_k) {
    q.gguf_rows = interleaved_rows(config.num_heads, config.head_dim);
    k.gguf_rows = interleaved_rows(config.num_kv_heads, config.head_dim);
  }
  layout.embedding("model.embed_tokens", "token_embd", config.vocab_size, hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = hf_layer(number);
    const std::string gguf = gguf_layer(number);
    layout.rms_norm(hf + "input_layernorm", gguf + "attn_norm", hidden);
    layout.linear(hf + "self_attn.q_proj", gguf + "attn_q", hidden, q_width, q);
    layout.linear(hf + "self_attn.k_proj", gguf + "attn_k", hidden, kv_width, k);
    layout.linear(hf + "self_attn.v_proj", gguf + "attn_v", hidden, kv_width, v);
    layout.linear(hf + "self_attn.o_proj", gguf + "attn_output", q_width, hidden, plain);
    layout.rms_norm(hf + "post_attention_layernorm", gguf + "ffn_norm", hidden);
    layout.linear(hf + "mlp.gate_proj", gguf + "ffn_gate", hidden, inner, plain);
    layout.linear(hf + "mlp.up_proj", gguf + "ffn_up", hidden, inner, plain);
    layout.linear(hf + "mlp.down_proj", gguf + "ffn_down", inner, hidden, plain);
  }
  layout.rms_norm("model.norm", "output_norm", hidden);
  layout.head("lm_head", "output", config.vocab_size, hidden, config.tied_head);
}

GatedLayer load_gated_layer(DecoderLoader& load, int64_t number, double epsilon) {
  const std::string path = hf_layer(number);
  const std::string attention = path + "self_attn.";
  const std::string mlp = path + "mlp.";
  return {load.rms_norm(path + "input_layernorm", epsilon),
          load.linear({attention + "q_proj", attention + "k_proj", attention + "v_proj"}),
          load.linear({attention + "o_proj"}),
          load.rms_norm(path + "post_attention_layernorm", epsilon),
          load.linear({mlp + "gate_proj", mlp + "up_proj"}),
          load.linear({mlp + "down_proj"})};
}

}  // namespace quarry
