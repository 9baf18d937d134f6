#include <filesystem>

#include "finetune/model_shape.h"

namespace quarry {
namespace {

// Keys of the published config.json that decide the number of parameters.
struct KnownModel {
  const char* name;
  const char* config;
};

constexpr KnownModel kKnownModels[] = {
    {"T0_3B", R"({"model_type": "t5", "d_model": 2048, "d_kv": 64, "d_ff": 5120,
        "num_layers": 24, "num_heads": 32, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})"},
    {"flan-t5-small", R"({"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 1024,
        "num_layers": 8, "num_heads": 6, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})"},
    {"flan-t5-base", R"({"model_type": "t5", "d_model": 768, "d_kv": 64, "d_ff": 2048,
        "num_layers": 12, "num_heads": 12, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})"},
    {"flan-t5-large", R"({"model_type": "t5", "d_model": 1024, "d_kv": 64, "d_ff": 2816,
        "num_layers": 24, "num_heads": 16, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})"},
    {"mt0-large", R"({"model_type": "mt5", "d_model": 1024, "d_kv": 64, "d_ff": 2816,
        "num_layers": 24, "num_heads": 16, "vocab_size": 250112})"},
    {"mt0-xxl", R"({"model_type": "mt5", "d_model": 4096, "d_kv": 64, "d_ff": 10240,
        "num_layers": 24, "num_heads": 64, "vocab_size": 250112})"},
    {"bloomz-7b1", R"({"model_type": "bloom", "hidden_size": 4096, "n_layer": 30, "n_head": 32,
        "vocab_size": 250880})"},
    {"opt-125m", R"({"model_type": "opt", "hidden_size": 768, "ffn_dim": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 2048,
        "vocab_size": 50272, "word_embed_proj_dim": 768})"},
    {"opt-350m", R"({"model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "max_position_embeddings": 2048,
        "vocab_size": 50272, "word_embed_proj_dim": 512, "do_layer_norm_before": false})"},
    {"gpt2", R"({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12,
        "n_positions": 1024, "vocab_size": 50257})"},
    {"bert-base-uncased", R"({"model_type": "bert", "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512,
        "type_vocab_size": 2, "vocab_size": 30522})"},
    {"SmolLM2-135M", R"({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "vocab_size": 49152, "tie_word_embeddings": true})"},
    {"Qwen2.5-3B", R"({"model_type": "qwen2", "hidden_size": 2048, "intermediate_size": 11008,
        "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        "vocab_size": 151936, "tie_word_embeddings": true})"},
};

}  // namespace

std::vector<std::string> known_model_names() {
  std::vector<std::string> names;
  for (const KnownModel& model : kKnownModels) names.emplace_back(model.name);
  return names;
}

ModelShape find_model_shape(const std::string& name_or_path) {
  std::string names;
  for (const KnownModel& model : kKnownModels) {
    if (name_or_path == model.name) {
      return model_shape(parse_json(model.config, model.name, ErrorCode::kInternal), model.name);
    }
    names += concat(names.empty() ? "" : ", ", model.name);
  }
  std::filesystem::path path = name_or_path;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) path /= "config.json";
  QUARRY_CHECK(std::filesystem::exists(path, error), ErrorCode::kNotFound, name_or_path,
               ": neither a config.json, a folder that holds one, nor one of ", names);
  return model_shape(read_json_file(path), path.string());
}

}  // namespace quarry
