#include "finetune/model_shape.h"

#include <algorithm>

#include "finetune/optimizer.h"
#include "generator/models/config_values.h"
#include "generator/nn/lora_config.h"

namespace quarry {
namespace {

constexpr int64_t kMaxLayers = 10000;
constexpr int64_t kMaxExtent = int64_t{1} << 30;  // of a tensor

// Adds up a model module by module, so that the functions below read like the models.
class ShapeBuilder {
 public:
  ShapeBuilder(const ConfigValues& config, ModelShape& shape) : config_(config), shape_(shape) {}

  void linear(const std::string& path, int64_t in, int64_t out, bool has_bias = false) {
    add(path + ".weight", in, out);
    if (has_bias) add(path + ".bias", out, 1);
    shape_.linears.push_back({path, in, out, has_bias, false});
  }
  void embedding(const std::string& path, int64_t rows, int64_t columns) {
    add(path + ".weight", rows, columns);
  }
  // Values that another parameter has already.
  void tied(const std::string& path, int64_t rows, int64_t columns) {
    shape_.parameters.push_back({path + ".weight", product(rows, columns), true});
  }
  void output_head(const std::string& path, bool is_tied) {
    if (is_tied) {
      tied(path, shape_.hidden_size, shape_.vocab_size);
    } else {
      add(path + ".weight", shape_.hidden_size, shape_.vocab_size);
    }
    shape_.linears.push_back({path, shape_.hidden_size, shape_.vocab_size, false, true});
  }
  void rms_norm(const std::string& path, int64_t size) { add(path + ".weight", size, 1); }
  void layer_norm(const std::string& path, int64_t size) {
    add(path + ".weight", size, 1);
    add(path + ".bias", size, 1);
  }

 private:
  int64_t product(int64_t a, int64_t b) const {
    QUARRY_CHECK(a <= kMaxExtent && b <= kMaxExtent, ErrorCode::kCorruptData, config_.source(),
                 ": a tensor of ", a, " x ", b, " values, wanted extents of at most ", kMaxExtent);
    return a * b;
  }
  void add(const std::string& name, int64_t rows, int64_t columns) {
    const int64_t size = product(rows, columns);
    QUARRY_CHECK(!__builtin_add_overflow(shape_.num_parameters, size, &shape_.num_parameters),
                 ErrorCode::kCorruptData, config_.source(), ": more than 2^63 parameters");
    shape_.parameters.push_back({name, size, false});
  }

  const ConfigValues& config_;
  ModelShape& shape_;
};

int64_t layers(const ConfigValues& config, int64_t value) {
  QUARRY_CHECK(value <= kMaxLayers, ErrorCode::kCorruptData, config.source(), ": ", value,
               " layers, wanted at most ", kMaxLayers);
  return value;
}

// llama, mistral, qwen2 (biases of q, k and v), qwen3 (norms of q and k).
void llama_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("hidden_size");
  const int64_t inner = shape.intermediate_size = config.size("intermediate_size");
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("num_hidden_layers"));
  const int64_t heads = config.size("num_attention_heads");
  const int64_t kv_heads = config.size_or("num_key_value_heads", heads);
  const int64_t head_dim = config.size_or("head_dim", std::max<int64_t>(hidden / heads, 1));
  const bool is_qwen2 = shape.model_type == "qwen2";
  const bool attention_bias = config.flag_or("attention_bias", is_qwen2);
  const bool mlp_bias = config.flag_or("mlp_bias", false);
  model.embedding("model.embed_tokens", shape.vocab_size, hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("model.layers.", i, ".");
    model.linear(layer + "self_attn.q_proj", hidden, heads * head_dim, attention_bias);
    model.linear(layer + "self_attn.k_proj", hidden, kv_heads * head_dim, attention_bias);
    model.linear(layer + "self_attn.v_proj", hidden, kv_heads * head_dim, attention_bias);
    model.linear(layer + "self_attn.o_proj", heads * head_dim, hidden, attention_bias && !is_qwen2);
    if (shape.model_type == "qwen3") {
      model.rms_norm(layer + "self_attn.q_norm", head_dim);
      model.rms_norm(layer + "self_attn.k_norm", head_dim);
    }
    model.linear(layer + "mlp.gate_proj", hidden, inner, mlp_bias);
    model.linear(layer + "mlp.up_proj", hidden, inner, mlp_bias);
    model.linear(layer + "mlp.down_proj", inner, hidden, mlp_bias);
    model.rms_norm(layer + "input_layernorm", hidden);
    model.rms_norm(layer + "post_attention_layernorm", hidden);
  }
  model.rms_norm("model.norm", hidden);
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", false));
}

void gemma3_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("hidden_size");
  const int64_t inner = shape.intermediate_size = config.size("intermediate_size");
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("num_hidden_layers"));
  const int64_t head_dim = config.size_or("head_dim", 256);
  const int64_t q_width = config.size("num_attention_heads") * head_dim;
  const int64_t kv_width = config.size("num_key_value_heads") * head_dim;
  const bool bias = config.flag_or("attention_bias", false);
  model.embedding("model.embed_tokens", shape.vocab_size, hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("model.layers.", i, ".");
    model.linear(layer + "self_attn.q_proj", hidden, q_width, bias);
    model.linear(layer + "self_attn.k_proj", hidden, kv_width, bias);
    model.linear(layer + "self_attn.v_proj", hidden, kv_width, bias);
    model.linear(layer + "self_attn.o_proj", q_width, hidden, bias);
    model.rms_norm(layer + "self_attn.q_norm", head_dim);
    model.rms_norm(layer + "self_attn.k_norm", head_dim);
    model.linear(layer + "mlp.gate_proj", hidden, inner);
    model.linear(layer + "mlp.up_proj", hidden, inner);
    model.linear(layer + "mlp.down_proj", inner, hidden);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm",
                             "pre_feedforward_layernorm", "post_feedforward_layernorm"}) {
      model.rms_norm(layer + norm, hidden);
    }
  }
  model.rms_norm("model.norm", hidden);
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", true));
}

void phi3_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("hidden_size");
  const int64_t inner = shape.intermediate_size = config.size("intermediate_size");
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("num_hidden_layers"));
  const int64_t heads = config.size("num_attention_heads");
  const int64_t kv_heads = config.size_or("num_key_value_heads", heads);
  const int64_t head_dim = config.size_or("head_dim", std::max<int64_t>(hidden / heads, 1));
  model.embedding("model.embed_tokens", shape.vocab_size, hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("model.layers.", i, ".");
    model.linear(layer + "self_attn.qkv_proj", hidden, (heads + 2 * kv_heads) * head_dim);
    model.linear(layer + "self_attn.o_proj", heads * head_dim, hidden);
    model.linear(layer + "mlp.gate_up_proj", hidden, 2 * inner);
    model.linear(layer + "mlp.down_proj", inner, hidden);
    model.rms_norm(layer + "input_layernorm", hidden);
    model.rms_norm(layer + "post_attention_layernorm", hidden);
  }
  model.rms_norm("model.norm", hidden);
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", false));
}

void gpt_neox_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("hidden_size");
  const int64_t inner = shape.intermediate_size = config.size("intermediate_size");
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("num_hidden_layers"));
  const bool bias = config.flag_or("attention_bias", true);
  model.embedding("gpt_neox.embed_in", shape.vocab_size, hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("gpt_neox.layers.", i, ".");
    model.linear(layer + "attention.query_key_value", hidden, 3 * hidden, bias);
    model.linear(layer + "attention.dense", hidden, hidden, bias);
    model.linear(layer + "mlp.dense_h_to_4h", hidden, inner, true);
    model.linear(layer + "mlp.dense_4h_to_h", inner, hidden, true);
    model.layer_norm(layer + "input_layernorm", hidden);
    model.layer_norm(layer + "post_attention_layernorm", hidden);
  }
  model.layer_norm("gpt_neox.final_layer_norm", hidden);
  model.output_head("embed_out", config.flag_or("tie_word_embeddings", false));
}

// One T5 attention or feed-forward layer with its norm. `layer`: "encoder.block.0.layer.0.".
void t5_attention(ShapeBuilder& model, const std::string& layer, const char* name, int64_t hidden,
                  int64_t inner) {
  const std::string path = layer + name;
  for (const char* projection : {".q", ".k", ".v"}) {
    model.linear(path + projection, hidden, inner);
  }
  model.linear(path + ".o", inner, hidden);
  model.rms_norm(layer + "layer_norm", hidden);
}

void t5_feed_forward(ShapeBuilder& model, const std::string& layer, int64_t hidden, int64_t inner,
                     bool gated) {
  const std::string path = layer + "DenseReluDense";
  if (gated) {
    model.linear(path + ".wi_0", hidden, inner);
    model.linear(path + ".wi_1", hidden, inner);
  } else {
    model.linear(path + ".wi", hidden, inner);
  }
  model.linear(path + ".wo", inner, hidden);
  model.rms_norm(layer + "layer_norm", hidden);
}

void t5_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const bool is_mt5 = shape.model_type == "mt5";
  const int64_t hidden = shape.hidden_size = config.size("d_model");
  shape.intermediate_size = config.size("d_ff");
  shape.vocab_size = config.size("vocab_size");
  const int64_t encoder_layers = layers(config, config.size("num_layers"));
  const int64_t decoder_layers =
      layers(config, config.size_or("num_decoder_layers", encoder_layers));
  shape.num_layers = encoder_layers + decoder_layers;
  const int64_t heads = config.size("num_heads");
  const int64_t inner = heads * config.size("d_kv");
  const bool gated =
      config.text_or("feed_forward_proj", is_mt5 ? "gated-gelu" : "relu").rfind("gated-", 0) == 0;
  const int64_t buckets = config.size_or("relative_attention_num_buckets", 32);
  model.embedding("shared", shape.vocab_size, hidden);
  for (int64_t i = 0; i < encoder_layers; ++i) {
    const std::string block = concat("encoder.block.", i, ".layer.");
    t5_attention(model, block + "0.", "SelfAttention", hidden, inner);
    t5_feed_forward(model, block + "1.", hidden, shape.intermediate_size, gated);
  }
  for (int64_t i = 0; i < decoder_layers; ++i) {
    const std::string block = concat("decoder.block.", i, ".layer.");
    t5_attention(model, block + "0.", "SelfAttention", hidden, inner);
    t5_attention(model, block + "1.", "EncDecAttention", hidden, inner);
    t5_feed_forward(model, block + "2.", hidden, shape.intermediate_size, gated);
  }
  for (const std::string stack : {"encoder.", "decoder."}) {
    model.tied(stack + "embed_tokens", shape.vocab_size, hidden);
    model.embedding(stack + "block.0.layer.0.SelfAttention.relative_attention_bias", buckets,
                    heads);
    model.rms_norm(stack + "final_layer_norm", hidden);
  }
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", !is_mt5));
}

void bloom_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size =
      config.has("hidden_size") ? config.size("hidden_size") : config.size("n_embed");
  shape.intermediate_size = 4 * hidden;
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(
      config, config.has("n_layer") ? config.size("n_layer") : config.size("num_hidden_layers"));
  model.embedding("transformer.word_embeddings", shape.vocab_size, hidden);
  model.layer_norm("transformer.word_embeddings_layernorm", hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("transformer.h.", i, ".");
    model.linear(layer + "self_attention.query_key_value", hidden, 3 * hidden, true);
    model.linear(layer + "self_attention.dense", hidden, hidden, true);
    model.linear(layer + "mlp.dense_h_to_4h", hidden, 4 * hidden, true);
    model.linear(layer + "mlp.dense_4h_to_h", 4 * hidden, hidden, true);
    model.layer_norm(layer + "input_layernorm", hidden);
    model.layer_norm(layer + "post_attention_layernorm", hidden);
  }
  model.layer_norm("transformer.ln_f", hidden);
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", true));
}

void opt_shape(const ConfigValues& config, ModelShape& shape) {
  constexpr int64_t kPositionOffset = 2;
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("hidden_size");
  const int64_t inner = shape.intermediate_size = config.size("ffn_dim");
  const int64_t projected = config.size_or("word_embed_proj_dim", hidden);
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("num_hidden_layers"));
  const bool bias = config.flag_or("enable_bias", true);
  model.embedding("model.decoder.embed_tokens", shape.vocab_size, projected);
  model.embedding("model.decoder.embed_positions",
                  config.size("max_position_embeddings") + kPositionOffset, hidden);
  if (projected != hidden) {
    model.linear("model.decoder.project_in", projected, hidden);
    model.linear("model.decoder.project_out", hidden, projected);
  }
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("model.decoder.layers.", i, ".");
    for (const char* name : {"k_proj", "v_proj", "q_proj", "out_proj"}) {
      model.linear(layer + "self_attn." + name, hidden, hidden, bias);
    }
    model.linear(layer + "fc1", hidden, inner, bias);
    model.linear(layer + "fc2", inner, hidden, bias);
    model.layer_norm(layer + "self_attn_layer_norm", hidden);
    model.layer_norm(layer + "final_layer_norm", hidden);
  }
  if (config.flag_or("do_layer_norm_before", true)) {
    model.layer_norm("model.decoder.final_layer_norm", hidden);
  }
  QUARRY_CHECK(config.flag_or("tie_word_embeddings", true), ErrorCode::kInvalidArgument,
               config.source(), ": tie_word_embeddings is false, which no OPT model has");
  model.output_head("lm_head", true);
}

void bart_shape(const ConfigValues& config, ModelShape& shape) {
  constexpr int64_t kPositionOffset = 2;
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("d_model");
  shape.intermediate_size = config.size("decoder_ffn_dim");
  shape.vocab_size = config.size("vocab_size");
  model.embedding("model.shared", shape.vocab_size, hidden);
  for (const std::string stack : {"encoder", "decoder"}) {
    const int64_t inner = config.size((stack + "_ffn_dim").c_str());
    const int64_t num_layers = layers(config, config.size((stack + "_layers").c_str()));
    shape.num_layers += num_layers;
    const std::string path = "model." + stack + ".";
    const auto attention = [&](const std::string& name) {
      for (const char* part : {"k_proj", "v_proj", "q_proj", "out_proj"}) {
        model.linear(concat(name, ".", part), hidden, hidden, true);
      }
      model.layer_norm(name + "_layer_norm", hidden);
    };
    model.tied(path + "embed_tokens", shape.vocab_size, hidden);
    model.embedding(path + "embed_positions",
                    config.size_or("max_position_embeddings", 1024) + kPositionOffset, hidden);
    for (int64_t i = 0; i < num_layers; ++i) {
      const std::string layer = concat(path, "layers.", i, ".");
      attention(layer + "self_attn");
      if (stack == "decoder") attention(layer + "encoder_attn");
      model.linear(layer + "fc1", hidden, inner, true);
      model.linear(layer + "fc2", inner, hidden, true);
      model.layer_norm(layer + "final_layer_norm", hidden);
    }
    model.layer_norm(path + "layernorm_embedding", hidden);
  }
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", true));
}

void gpt2_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("n_embd");
  const int64_t inner = shape.intermediate_size = config.size_or("n_inner", 4 * hidden);
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("n_layer"));
  model.embedding("transformer.wte", shape.vocab_size, hidden);
  model.embedding("transformer.wpe", config.size("n_positions"), hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("transformer.h.", i, ".");
    model.linear(layer + "attn.c_attn", hidden, 3 * hidden, true);
    model.linear(layer + "attn.c_proj", hidden, hidden, true);
    model.linear(layer + "mlp.c_fc", hidden, inner, true);
    model.linear(layer + "mlp.c_proj", inner, hidden, true);
    model.layer_norm(layer + "ln_1", hidden);
    model.layer_norm(layer + "ln_2", hidden);
  }
  model.layer_norm("transformer.ln_f", hidden);
  model.output_head("lm_head", config.flag_or("tie_word_embeddings", true));
}

void bert_shape(const ConfigValues& config, ModelShape& shape) {
  ShapeBuilder model(config, shape);
  const int64_t hidden = shape.hidden_size = config.size("hidden_size");
  const int64_t inner = shape.intermediate_size = config.size("intermediate_size");
  shape.vocab_size = config.size("vocab_size");
  shape.num_layers = layers(config, config.size("num_hidden_layers"));
  model.embedding("embeddings.word_embeddings", shape.vocab_size, hidden);
  model.embedding("embeddings.position_embeddings", config.size("max_position_embeddings"), hidden);
  model.embedding("embeddings.token_type_embeddings", config.size_or("type_vocab_size", 2), hidden);
  model.layer_norm("embeddings.LayerNorm", hidden);
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    const std::string layer = concat("encoder.layer.", i, ".");
    for (const char* name : {"self.query", "self.key", "self.value", "output.dense"}) {
      model.linear(layer + "attention." + name, hidden, hidden, true);
    }
    model.linear(layer + "intermediate.dense", hidden, inner, true);
    model.linear(layer + "output.dense", inner, hidden, true);
    model.layer_norm(layer + "attention.output.LayerNorm", hidden);
    model.layer_norm(layer + "output.LayerNorm", hidden);
  }
  model.linear("pooler.dense", hidden, hidden, true);
}

struct Family {
  const char* name;
  void (*shape)(const ConfigValues& config, ModelShape& shape);
  std::vector<std::string> default_targets;
};

const std::vector<Family>& families() {
  static const std::vector<Family> list = {
      {"llama", llama_shape, {"q_proj", "v_proj"}},
      {"mistral", llama_shape, {"q_proj", "v_proj"}},
      {"qwen2", llama_shape, {"q_proj", "v_proj"}},
      {"qwen3", llama_shape, {"q_proj", "v_proj"}},
      {"gemma3_text", gemma3_shape, {"q_proj", "v_proj"}},
      {"phi3", phi3_shape, {"qkv_proj"}},
      {"gpt_neox", gpt_neox_shape, {"query_key_value"}},
      {"t5", t5_shape, {"q", "v"}},
      {"mt5", t5_shape, {"q", "v"}},
      {"bart", bart_shape, {"q_proj", "v_proj"}},
      {"bloom", bloom_shape, {"query_key_value"}},
      {"opt", opt_shape, {"q_proj", "v_proj"}},
      {"gpt2", gpt2_shape, {"c_attn"}},
      {"bert", bert_shape, {"query", "value"}},
  };
  return list;
}

}  // namespace

ModelShape model_shape(const Json& json, const std::string& source) {
  const ConfigValues config(json, source);
  ModelShape shape;
  shape.model_type = config.text_or("model_type", "");
  std::string names;
  for (const Family& family : families()) {
    if (shape.model_type == family.name) {
      shape.default_targets = family.default_targets;
      family.shape(config, shape);
      return shape;
    }
    names += concat(names.empty() ? "" : ", ", family.name);
  }
  throw_error(ErrorCode::kInvalidArgument, source, ": model_type is \"", shape.model_type,
              "\", wanted one of ", names);
}

TrainableCount count_trainable(const ModelShape& model, const LoraSettings& given) {
  LoraSettings settings = given;
  if (settings.target_modules.empty() && settings.target_pattern.empty() &&
      !settings.target_all_linear) {
    settings.target_modules = model.default_targets;
  }
  const LoraConfig config = LoraConfig::from_settings(settings);
  TrainableCount count;
  int64_t in_base = 0;  // trained biases; what else is trained stands beside the base
  int64_t targeted = 0;
  const auto train = [&](int64_t size) {
    count.trainable += size;
    if (size >= kMinElementsFor8bit) count.in_large_tensors += size;
  };
  for (const LinearShape& linear : model.linears) {
    if (!config.targets(linear.path, linear.is_output_head)) continue;
    ++targeted;
    const int64_t rank = config.rank(linear.path);
    train(rank * linear.in_features);
    train(rank * linear.out_features);
  }
  for (const ParameterShape& parameter : model.parameters) {
    if (!config.replaces(parameter.name)) continue;
    train(parameter.size);
    if (!config.copies(parameter.name)) in_base += parameter.size;
  }
  QUARRY_CHECK(targeted > 0, ErrorCode::kInvalidArgument, "target_modules ", config.target_text(),
               " match no Linear of a ", model.model_type, " model; it has \"",
               model.linears.front().path, "\" and ", model.linears.size() - 1, " others");
  count.all = model.num_parameters + count.trainable - in_base;
  return count;
}

std::string format_trainable(const TrainableCount& count) {
  return trainable_parameters_text(count.trainable, count.all);
}

}  // namespace quarry
