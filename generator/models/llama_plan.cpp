#include "generator/models/llama_plan.h"

#include "data/core/error.h"
#include "generator/models/config_values.h"
#include "generator/nn/load.h"
#include "generator/nn/rope_table.h"

namespace quarry {

const LlamaNames kLlamaGgufNames = {
    "token_embd", "output_norm", "output",   "blk.",     "attn_norm", "attn_q",  "attn_k",
    "attn_v",     "attn_output", "ffn_norm", "ffn_gate", "ffn_up",    "ffn_down"};
const LlamaNames kLlamaHuggingFaceNames = {"model.embed_tokens",
                                           "model.norm",
                                           "lm_head",
                                           "model.layers.",
                                           "input_layernorm",
                                           "self_attn.q_proj",
                                           "self_attn.k_proj",
                                           "self_attn.v_proj",
                                           "self_attn.o_proj",
                                           "post_attention_layernorm",
                                           "mlp.gate_proj",
                                           "mlp.up_proj",
                                           "mlp.down_proj"};

namespace {

using nn::Tensor;

constexpr int64_t kMaxLayers = 10000;

void check_config(const CausalLmConfig& config, const std::string& source) {
  QUARRY_CHECK(config.num_heads % config.num_kv_heads == 0, ErrorCode::kCorruptData, source, ": ",
               config.num_heads, " attention heads cannot share ", config.num_kv_heads,
               " key/value heads");
  QUARRY_CHECK(config.num_layers <= kMaxLayers, ErrorCode::kCorruptData, source, ": ",
               config.num_layers, " layers, more than ", kMaxLayers);
  QUARRY_CHECK(config.head_dim >= 2 && config.head_dim % 2 == 0 && config.head_dim <= 256,
               ErrorCode::kInvalidArgument, source, ": head size ", config.head_dim,
               " is not supported (even, at most 256)");
}

LlamaPlan plan_from_gguf(const GgufFile& file) {
  LlamaPlan plan;
  plan.names = kLlamaGgufNames;
  plan.interleaved_rope = true;
  CausalLmConfig& config = plan.config;
  config.architecture = "llama";
  config.num_layers = gguf_size(file, "llama.block_count");
  config.max_seq_len = gguf_size(file, "llama.context_length");
  config.hidden_size = gguf_size(file, "llama.embedding_length");
  config.intermediate_size = gguf_size(file, "llama.feed_forward_length");
  config.num_heads = gguf_size(file, "llama.attention.head_count");
  config.num_kv_heads = gguf_size_or(file, "llama.attention.head_count_kv", config.num_heads);
  config.head_dim =
      gguf_size_or(file, "llama.attention.key_length", config.hidden_size / config.num_heads);
  config.rope_theta = file.find_float("llama.rope.freq_base").value_or(10000.0);
  config.norm_epsilon = file.get_float("llama.attention.layer_norm_rms_epsilon");

  const TensorView& embedding = file.get("token_embd.weight");
  QUARRY_CHECK(embedding.shape.size() == 2, ErrorCode::kCorruptData, file.description(),
               ": tensor 'token_embd.weight' is not a matrix");
  config.vocab_size = embedding.shape[0];
  config.tied_head = file.find("output.weight") == nullptr;

  for (const char* key : {"llama.rope.dimension_count", "llama.attention.value_length"}) {
    gguf_require(file, key, config.head_dim);
  }
  gguf_require(file, "llama.expert_count", 0);
  const std::string scaling = file.find_string("llama.rope.scaling.type").value_or("none");
  QUARRY_CHECK(scaling == "none", ErrorCode::kInvalidArgument, file.description(),
               ": llama.rope.scaling.type '", scaling, "' is not supported");

  check_config(config, file.description());
  plan.inv_freq = nn::rope_inv_freq(config.rope_theta, config.head_dim);
  // Llama 3.1 and later store the divisors of their long-context scaling.
  if (file.find("rope_freqs.weight") != nullptr) {
    const Tensor divisors = nn::load_vector(file, "rope_freqs.weight", config.head_dim / 2);
    for (size_t i = 0; i < plan.inv_freq.size(); ++i) {
      plan.inv_freq[i] /= divisors.data_ptr<float>()[i];
    }
  }
  return plan;
}

void read_rope(const ConfigValues& values, LlamaPlan& plan) {
  CausalLmConfig& config = plan.config;
  // transformers 5 moved rope_theta and rope_scaling into rope_parameters.
  const ConfigValues parameters = values.object("rope_parameters");
  config.rope_theta =
      parameters.number_or("rope_theta", values.number_or("rope_theta", config.rope_theta));
  plan.inv_freq = nn::rope_inv_freq(config.rope_theta, config.head_dim);

  const ConfigValues scaling = parameters.empty() ? values.object("rope_scaling") : parameters;
  const std::string type = scaling.text_or("rope_type", scaling.text_or("type", "default"));
  if (type == "llama3") {
    nn::Llama3RopeScaling llama3;
    llama3.factor = scaling.number("factor");
    llama3.low_freq_factor = scaling.number("low_freq_factor");
    llama3.high_freq_factor = scaling.number("high_freq_factor");
    llama3.original_max_position_embeddings = scaling.number("original_max_position_embeddings");
    nn::scale_llama3(llama3, plan.inv_freq);
  } else {
    QUARRY_CHECK(type == "default", ErrorCode::kInvalidArgument, values.source(),
                 ": rope scaling of type '", type, "' is not supported (default, llama3)");
  }
}

LlamaPlan plan_from_config(const Json& json, const std::string& source) {
  const ConfigValues values(json, source);
  LlamaPlan plan;
  plan.names = kLlamaHuggingFaceNames;
  CausalLmConfig& config = plan.config;
  config.architecture = "llama";
  config.hidden_size = values.size("hidden_size");
  config.intermediate_size = values.size("intermediate_size");
  config.num_layers = values.size("num_hidden_layers");
  config.num_heads = values.size("num_attention_heads");
  config.num_kv_heads = values.size_or("num_key_value_heads", config.num_heads);
  config.head_dim = values.size_or("head_dim", config.hidden_size / config.num_heads);
  config.vocab_size = values.size("vocab_size");
  config.max_seq_len = values.size_or("max_position_embeddings", 2048);
  config.norm_epsilon = values.number_or("rms_norm_eps", 1e-6);
  config.tied_head = values.flag_or("tie_word_embeddings", false);
  values.require_text("hidden_act", "silu");
  check_config(config, values.source());
  read_rope(values, plan);
  return plan;
}

}  // namespace

LlamaPlan plan_llama(const CausalLmSource& source) {
  LlamaPlan plan = source.gguf != nullptr ? plan_from_gguf(*source.gguf)
                                          : plan_from_config(*source.config, source.description);
  plan.weights = source.weights;
  return plan;
}

std::vector<int64_t> interleaved_rows(int64_t num_heads, int64_t head_dim) {
  std::vector<int64_t> order;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t row = 0; row < head_dim; ++row) {
      const int64_t half = row / (head_dim / 2);
      const int64_t pair = row % (head_dim / 2);
      order.push_back(head * head_dim + 2 * pair + half);
    }
  }
  return order;
}

}  // namespace quarry
