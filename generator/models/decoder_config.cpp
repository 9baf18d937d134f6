#include "generator/models/decoder_config.h"

#include <charconv>

#include "data/core/error.h"
#include "generator/nn/activations.h"
#include "generator/nn/load.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

constexpr int64_t kMaxLayers = 10000;
constexpr int64_t kMaxHeadDim = 256;

void divide(std::vector<float>& inv_freq, double factor) {
  for (float& frequency : inv_freq) {
    frequency = static_cast<float>(static_cast<double>(frequency) / factor);
  }
}

}  // namespace

void check_config(const CausalLmConfig& config, const std::string& source) {
  QUARRY_CHECK(config.num_heads % config.num_kv_heads == 0, ErrorCode::kCorruptData, source, ": ",
               config.num_heads, " attention heads cannot share ", config.num_kv_heads,
               " key/value heads");
  QUARRY_CHECK(config.num_layers <= kMaxLayers, ErrorCode::kCorruptData, source, ": ",
               config.num_layers, " layers, more than ", kMaxLayers);
  QUARRY_CHECK(config.head_dim >= 2 && config.head_dim % 2 == 0 && config.head_dim <= kMaxHeadDim,
               ErrorCode::kInvalidArgument, source, ": head size ", config.head_dim,
               " is not supported (even, at most ", kMaxHeadDim, ")");
}

void check_whole_heads(const CausalLmConfig& config, const std::string& source) {
  QUARRY_CHECK(config.num_heads * config.head_dim == config.hidden_size &&
                   config.num_kv_heads == config.num_heads,
               ErrorCode::kCorruptData, source, ": hidden size ", config.hidden_size,
               " cannot be cut into ", config.num_heads, " attention heads of ", config.head_dim,
               " with ", config.num_kv_heads, " key/value heads");
}

void check_rotary_dim(int64_t rotary_dim, int64_t head_dim, const std::string& source) {
  QUARRY_CHECK(rotary_dim >= 2 && rotary_dim % 2 == 0 && rotary_dim <= head_dim,
               ErrorCode::kCorruptData, source, ": ", rotary_dim,
               " rotary values of a head, wanted an even number up to the head size ", head_dim);
}

CausalLmConfig read_hf_config(const ConfigValues& values, int64_t default_head_dim) {
  CausalLmConfig config;
  config.architecture = values.text_or("model_type", "");
  config.hidden_size = values.size("hidden_size");
  config.intermediate_size = values.size("intermediate_size");
  config.num_layers = values.size("num_hidden_layers");
  config.num_heads = values.size("num_attention_heads");
  config.num_kv_heads = values.size_or("num_key_value_heads", config.num_heads);
  config.head_dim = values.size_or(
      "head_dim", default_head_dim > 0 ? default_head_dim : config.hidden_size / config.num_heads);
  config.vocab_size = values.size("vocab_size");
  config.max_seq_len = values.size_or("max_position_embeddings", 2048);
  config.norm_epsilon = values.number_or("rms_norm_eps", 1e-6);
  config.tied_head = values.flag_or("tie_word_embeddings", false);
  check_config(config, values.source());
  return config;
}

CausalLmConfig read_gguf_config(const GgufFile& file, const std::string& architecture) {
  const auto key = [&](const char* name) { return architecture + "." + name; };
  CausalLmConfig config;
  config.architecture = architecture;
  config.num_layers = gguf_size(file, key("block_count").c_str());
  config.max_seq_len = gguf_size(file, key("context_length").c_str());
  config.hidden_size = gguf_size(file, key("embedding_length").c_str());
  config.intermediate_size = gguf_size(file, key("feed_forward_length").c_str());
  config.num_heads = gguf_size(file, key("attention.head_count").c_str());
  config.num_kv_heads =
      gguf_size_or(file, key("attention.head_count_kv").c_str(), config.num_heads);
  config.head_dim = gguf_size_or(file, key("attention.key_length").c_str(),
                                 config.hidden_size / config.num_heads);
  const TensorView& embedding = file.get("token_embd.weight");
  QUARRY_CHECK(embedding.shape.size() == 2, ErrorCode::kCorruptData, file.description(),
               ": tensor 'token_embd.weight' is not a matrix");
  config.vocab_size = embedding.shape[0];
  config.tied_head = file.find("output.weight") == nullptr;
  gguf_require(file, key("attention.value_length").c_str(), config.head_dim);
  gguf_require(file, key("expert_count").c_str(), 0);
  check_config(config, file.description());
  return config;
}

RopeSettings read_rope_parameters(const ConfigValues& parameters, double default_theta,
                                  int64_t rotary_dim) {
  RopeSettings rope;
  rope.theta = parameters.number_or("rope_theta", default_theta);
  rope.inv_freq = nn::rope_inv_freq(rope.theta, rotary_dim);
  const std::string type = parameters.text_or("rope_type", parameters.text_or("type", "default"));
  if (type == "llama3") {
    nn::Llama3RopeScaling llama3;
    llama3.factor = parameters.number("factor");
    llama3.low_freq_factor = parameters.number("low_freq_factor");
    llama3.high_freq_factor = parameters.number("high_freq_factor");
    llama3.original_max_position_embeddings = parameters.number("original_max_position_embeddings");
    nn::scale_llama3(llama3, rope.inv_freq);
  } else if (type == "linear") {
    rope.linear_factor = parameters.number("factor");
    QUARRY_CHECK(rope.linear_factor > 0.0, ErrorCode::kCorruptData, parameters.source(),
                 ": rope 'factor' is ", rope.linear_factor, ", wanted a positive number");
    divide(rope.inv_freq, rope.linear_factor);
  } else {
    QUARRY_CHECK(type == "default", ErrorCode::kInvalidArgument, parameters.source(),
                 ": rope scaling of type '", type, "' is not supported (default, linear, llama3)");
  }
  return rope;
}

RopeSettings read_hf_rope(const ConfigValues& values, double default_theta, int64_t rotary_dim) {
  const double theta = values.number_or("rope_theta", default_theta);
  const bool is_new = !values.object("rope_parameters").empty();
  return read_rope_parameters(values.object(is_new ? "rope_parameters" : "rope_scaling"), theta,
                              rotary_dim);
}

RopeSettings read_gguf_rope(const GgufFile& file, const std::string& architecture,
                            int64_t rotary_dim) {
  const auto key = [&](const char* name) { return architecture + "." + name; };
  RopeSettings rope;
  rope.theta = file.find_float(key("rope.freq_base").c_str()).value_or(10000.0);
  gguf_require(file, key("rope.dimension_count").c_str(), rotary_dim);
  rope.inv_freq = nn::rope_inv_freq(rope.theta, rotary_dim);
  const std::string scaling = file.find_string(key("rope.scaling.type").c_str()).value_or("none");
  if (scaling == "linear") {
    rope.linear_factor = file.get_float(key("rope.scaling.factor").c_str());
    QUARRY_CHECK(rope.linear_factor > 0.0, ErrorCode::kCorruptData, file.description(), ": ",
                 architecture, ".rope.scaling.factor is ", rope.linear_factor,
                 ", wanted a positive number");
    divide(rope.inv_freq, rope.linear_factor);
  } else {
    QUARRY_CHECK(scaling == "none", ErrorCode::kInvalidArgument, file.description(), ": ",
                 architecture, ".rope.scaling.type '", scaling, "' is not supported");
  }
  // Llama 3.1 and later store the divisors of their long-context scaling.
  if (file.find("rope_freqs.weight") != nullptr) {
    const at::Tensor divisors = nn::load_vector(file, "rope_freqs.weight", rotary_dim / 2);
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
      rope.inv_freq[i] /= divisors.data_ptr<float>()[i];
    }
  }
  return rope;
}

std::vector<int64_t> read_layer_windows(const ConfigValues& values, int64_t num_layers,
                                        int64_t window,
                                        const std::function<bool(int64_t)>& is_sliding) {
  const std::vector<std::string> types = values.texts_or_empty("layer_types");
  QUARRY_CHECK(types.empty() || static_cast<int64_t>(types.size()) == num_layers,
               ErrorCode::kCorruptData, values.source(), ": 'layer_types' has ", types.size(),
               " elements for ", num_layers, " layers");
  std::vector<int64_t> windows(static_cast<size_t>(num_layers), 0);
  for (size_t layer = 0; layer < windows.size(); ++layer) {
    bool slides = false;
    if (types.empty()) {
      slides = is_sliding(static_cast<int64_t>(layer));
    } else {
      slides = types[layer] == "sliding_attention";
      QUARRY_CHECK(slides || types[layer] == "full_attention", ErrorCode::kInvalidArgument,
                   values.source(), ": layer type '", types[layer],
                   "' is not supported (full_attention, sliding_attention)");
    }
    if (slides) windows[layer] = window;
  }
  return windows;
}

Activation read_activation(const ConfigValues& values, const char* key, const char* fallback) {
  const std::string name = values.text_or(key, fallback);
  if (name == "gelu") return nn::gelu;
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") {
    return nn::gelu_tanh;
  }
  if (name == "relu") return nn::relu;
  throw_error(ErrorCode::kInvalidArgument, values.source(), ": '", key, "' is '", name,
              "', only gelu, gelu_new, gelu_fast, gelu_pytorch_tanh and relu are supported");
}

double shortest(double value) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text), static_cast<float>(value));
  double result = value;
  std::from_chars(text, end.ptr, result);
  return result;
}

OrderedJson hf_config_json(const char* hf_class, const char* model_type,
                           const CausalLmConfig& config) {
  OrderedJson json;
  json["architectures"] = {hf_class};
  json["model_type"] = model_type;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["vocab_size"] = config.vocab_size;
  json["max_position_embeddings"] = config.max_seq_len;
  json["rms_norm_eps"] = shortest(config.norm_epsilon);
  json["tie_word_embeddings"] = config.tied_head;
  json["attention_dropout"] = 0.0;
  json["initializer_range"] = 0.02;
  json["use_cache"] = true;
  return json;
}

void write_rope(const RopeSettings& rope, OrderedJson& json) {
  json["rope_theta"] = shortest(rope.theta);
  if (rope.linear_factor == 1.0) return;
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", shortest(rope.linear_factor)}};
}

}  // namespace quarry
