// The tensors of a llama in GGUF and in Hugging Face files, and its config.json.
#include <charconv>

#include "data/core/error.h"
#include "generator/models/families.h"
#include "generator/models/llama_plan.h"

namespace quarry {
namespace {

// A float32 as the shortest decimal number that stands for it: 1e-5f is not 9.99999974e-06.
double shortest(double value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value));
  double result = value;
  std::from_chars(text, end.ptr, result);
  return result;
}

class LayoutBuilder {
 public:
  void add(const std::string& hf, const std::string& gguf) {
    layout_.others.push_back({hf + ".weight", gguf + ".weight", {}});
  }

  void add_linear(const std::string& hf, const std::string& gguf, int64_t in, int64_t out,
                  const std::vector<int64_t>& gguf_rows = {}) {
    layout_.linears.push_back({{hf, in, out}, {hf + ".weight", gguf + ".weight", gguf_rows}});
    layout_.others.push_back({hf + ".bias", gguf + ".bias", gguf_rows});
  }

  ModelLayout take(bool tied_head) {
    layout_.tied_head = tied_head;
    return std::move(layout_);
  }
  void set_tables(const std::string& embedding, const std::string& head) {
    layout_.embedding = embedding + ".weight";
    layout_.head = head + ".weight";
  }

 private:
  ModelLayout layout_;
};

}  // namespace

ModelLayout llama_layout(const CausalLmSource& source) {
  const LlamaPlan plan = plan_llama(source);
  const CausalLmConfig& config = plan.config;
  const LlamaNames& hf = kLlamaHuggingFaceNames;
  const LlamaNames& gguf = kLlamaGgufNames;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  const std::vector<int64_t> q_rows = interleaved_rows(config.num_heads, config.head_dim);
  const std::vector<int64_t> k_rows = interleaved_rows(config.num_kv_heads, config.head_dim);
  LayoutBuilder builder;
  builder.add(hf.embedding, gguf.embedding);
  builder.add(hf.final_norm, gguf.final_norm);
  builder.add(hf.head, gguf.head);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string a = hf.layer + std::to_string(layer) + ".";
    const std::string b = gguf.layer + std::to_string(layer) + ".";
    builder.add(a + hf.attention_norm, b + gguf.attention_norm);
    builder.add(a + hf.mlp_norm, b + gguf.mlp_norm);
    builder.add_linear(a + hf.q, b + gguf.q, hidden, q_width, q_rows);
    builder.add_linear(a + hf.k, b + gguf.k, hidden, kv_width, k_rows);
    builder.add_linear(a + hf.v, b + gguf.v, hidden, kv_width);
    builder.add_linear(a + hf.o, b + gguf.o, q_width, hidden);
    builder.add_linear(a + hf.gate, b + gguf.gate, hidden, inner);
    builder.add_linear(a + hf.up, b + gguf.up, hidden, inner);
    builder.add_linear(a + hf.down, b + gguf.down, inner, hidden);
  }
  builder.set_tables(hf.embedding, hf.head);
  return builder.take(config.tied_head);
}

OrderedJson llama_config_from_gguf(const GgufFile& file) {
  CausalLmSource source;
  source.tensors = &file;
  source.gguf = &file;
  source.description = file.description();
  const LlamaPlan plan = plan_llama(source);
  const CausalLmConfig& config = plan.config;
  QUARRY_CHECK(file.find("rope_freqs.weight") == nullptr, ErrorCode::kInvalidArgument,
               file.description(), ": tensor 'rope_freqs.weight' has no place in config.json");
  const LlamaNames& names = kLlamaGgufNames;
  const std::string first = names.layer + std::string("0.");
  OrderedJson json;
  json["architectures"] = {"LlamaForCausalLM"};
  json["model_type"] = "llama";
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["vocab_size"] = config.vocab_size;
  json["max_position_embeddings"] = config.max_seq_len;
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = shortest(config.norm_epsilon);
  json["rope_theta"] = shortest(config.rope_theta);
  json["attention_bias"] = file.find(first + names.q + ".bias") != nullptr;
  json["mlp_bias"] = file.find(first + names.gate + ".bias") != nullptr;
  json["tie_word_embeddings"] = config.tied_head;
  json["attention_dropout"] = 0.0;
  json["initializer_range"] = 0.02;
  json["use_cache"] = true;
  return json;
}

}  // namespace quarry
