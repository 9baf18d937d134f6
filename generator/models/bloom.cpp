// BLOOM (Le Scao et al. 2022, arXiv:2211.05100): LayerNorm, after the embedding too, GELU, and
// positions as linear biases of the attention scores (Press et al. 2021, arXiv:2108.12409).
#include <cmath>
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"

namespace quarry {
namespace {

CausalLmConfig read_config(const CausalLmSource& source) {
  CausalLmConfig config;
  if (source.gguf != nullptr) {
    config = read_gguf_config(*source.gguf, "bloom");
    config.norm_epsilon = source.gguf->get_float("bloom.attention.layer_norm_epsilon");
  } else {
    const ConfigValues values(*source.config, source.description);
    const auto either = [&](const char* name, const char* old_name) {
      return values.size(values.has(name) ? name : old_name);
    };
    config.architecture = "bloom";
    config.hidden_size = either("hidden_size", "n_embed");
    config.intermediate_size = 4 * config.hidden_size;
    config.num_layers = either("n_layer", "num_hidden_layers");
    config.num_heads = config.num_kv_heads = either("n_head", "num_attention_heads");
    config.head_dim = config.hidden_size / config.num_heads;
    config.vocab_size = values.size("vocab_size");
    config.max_seq_len = values.size_or("seq_length", 2048);
    config.norm_epsilon = values.number_or("layer_norm_epsilon", 1e-5);
    config.tied_head = values.flag_or("tie_word_embeddings", true);
    QUARRY_CHECK(!values.flag_or("apply_residual_connection_post_layernorm", false),
                 ErrorCode::kInvalidArgument, values.source(),
                 ": 'apply_residual_connection_post_layernorm' is true, only false is supported");
  }
  check_config(config, source.description);
  check_whole_heads(config, source.description);
  return config;
}

// A geometric row for the largest power of two of heads, and every second value of the next finer
// row for the heads that are left.
std::vector<float> alibi_slopes(int64_t num_heads) {
  int64_t power = 1;
  while (2 * power <= num_heads) power *= 2;
  std::vector<float> slopes;
  const auto add = [&](int64_t row, int64_t first, int64_t step, int64_t count) {
    const double exponent = -8.0 / static_cast<double>(row);
    for (int64_t i = 0; i < count; ++i) {
      slopes.push_back(
          static_cast<float>(std::exp2(exponent * static_cast<double>(first + i * step))));
    }
  };
  add(power, 1, 1, power);
  add(2 * power, 1, 2, num_heads - power);
  return slopes;
}

ModelLayout make_layout(const CausalLmSource& source, const CausalLmConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  LayoutBuilder::LinearOptions biased;
  biased.bias = BiasUse::kRequired;
  LayoutBuilder::LinearOptions qkv = biased;
  qkv.gguf_rows = rows_by_head(config.num_heads, config.head_dim);
  LayoutBuilder layout(source.folder(), "transformer.");
  layout.embedding("transformer.word_embeddings", "token_embd", config.vocab_size, hidden);
  layout.layer_norm("transformer.word_embeddings_layernorm", "token_embd_norm", hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    const std::string hf = "transformer.h." + std::to_string(number) + ".";
    const std::string gguf = "blk." + std::to_string(number) + ".";
    layout.layer_norm(hf + "input_layernorm", gguf + "attn_norm", hidden);
    layout.linear(hf + "self_attention.query_key_value", gguf + "attn_qkv", hidden, 3 * hidden,
                  qkv);
    layout.linear(hf + "self_attention.dense", gguf + "attn_output", hidden, hidden, biased);
    layout.layer_norm(hf + "post_attention_layernorm", gguf + "ffn_norm", hidden);
    layout.linear(hf + "mlp.dense_h_to_4h", gguf + "ffn_up", hidden, inner, biased);
    layout.linear(hf + "mlp.dense_4h_to_h", gguf + "ffn_down", inner, hidden, biased);
  }
  layout.layer_norm("transformer.ln_f", "output_norm", hidden);
  layout.head("lm_head", "output", config.vocab_size, hidden, config.tied_head);
  return layout.take();
}

struct BloomLayer {
  const nn::LayerNorm& attention_norm;  // [E]
  const nn::Linear& qkv;                // E -> 3 E, by head
  const nn::Linear& attention_output;   // E -> E
  const nn::LayerNorm& mlp_norm;        // [E]
  const nn::Linear& up;                 // E -> 4 E
  const nn::Linear& down;               // 4 E -> E
};

class Bloom final : public Decoder {
 public:
  Bloom(const CausalLmConfig& config, DecoderLoader& load)
      : Decoder(config, load),
        slopes_(alibi_slopes(config_.num_heads)),
        heads_{config_.num_heads, config_.num_heads, config_.head_dim},
        embedding_norm_(
            load.layer_norm("transformer.word_embeddings_layernorm", config_.norm_epsilon)) {
    heads_.alibi_slopes = slopes_.data();
    const double epsilon = config_.norm_epsilon;
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string path = "transformer.h." + std::to_string(number) + ".";
      layers_.push_back({load.layer_norm(path + "input_layernorm", epsilon),
                         load.linear({path + "self_attention.query_key_value"}),
                         load.linear({path + "self_attention.dense"}),
                         load.layer_norm(path + "post_attention_layernorm", epsilon),
                         load.linear({path + "mlp.dense_h_to_4h"}),
                         load.linear({path + "mlp.dense_4h_to_h"})});
    }
    final_norm_ = &load.layer_norm("transformer.ln_f", epsilon);
  }

 protected:
  Tensor embed(const DecoderPass& pass) const override {
    return embedding_norm_.forward(embed_tokens(pass), pass.adapters, workspace_);
  }

  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const BloomLayer& layer = layers_[static_cast<size_t>(number)];
    Tensor h = layer.attention_norm.forward(x, pass.adapters, workspace_);
    h = layer.qkv.forward(h, pass.adapters, workspace_);
    h = nn::split_heads(h, heads_.num_heads, heads_.head_dim, workspace_);
    h = attend(h, heads_, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = layer.attention_output.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);

    h = layer.mlp_norm.forward(x, adapters, workspace_);
    h = layer.up.forward(h, adapters, workspace_);
    h = nn::gelu_tanh(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    return nn::add(x, h, workspace_);
  }

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    return final_norm_->forward(x, pass.logit_adapters, workspace_);
  }

 private:
  std::vector<float> slopes_;  // [H]
  nn::AttentionHeads heads_;
  const nn::LayerNorm& embedding_norm_;  // [E]
  std::vector<BloomLayer> layers_;
  const nn::LayerNorm* final_norm_;
};

OrderedJson config_from_gguf(const GgufFile& file) {
  const CausalLmConfig config = read_config(gguf_source(file));
  OrderedJson json;
  json["architectures"] = {"BloomForCausalLM"};
  json["model_type"] = "bloom";
  json["hidden_size"] = config.hidden_size;
  json["n_layer"] = config.num_layers;
  json["n_head"] = config.num_heads;
  json["vocab_size"] = config.vocab_size;
  json["seq_length"] = config.max_seq_len;
  json["layer_norm_epsilon"] = shortest(config.norm_epsilon);
  json["apply_residual_connection_post_layernorm"] = false;
  json["tie_word_embeddings"] = config.tied_head;
  return json;
}

}  // namespace

CausalLmFamily bloom_family() {
  return decoder_family<Bloom, read_config, make_layout>("bloom", "BloomForCausalLM",
                                                         config_from_gguf);
}

}  // namespace quarry
