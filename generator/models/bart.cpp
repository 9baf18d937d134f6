// BART (Lewis et al. 2020, arXiv:1910.13461): post-norm encoder-decoder with LayerNorm, after the
// embeddings too, learned positions and GELU. GGUF does not have it.
#include <cmath>
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder_config.h"
#include "generator/models/encoder_decoder.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"

namespace quarry {
namespace {

constexpr int64_t kPositionOffset = 2;  // of the first position in its table
constexpr double kNormEpsilon = 1e-5;   // config.json does not say it

// One of the two stacks.
struct BartStack {
  std::string path;  // "model.encoder."
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t intermediate_size = 0;
};

struct BartPlan {
  CausalLmConfig config;
  BartStack encoder;
  BartStack decoder;
  Activation activation = nn::gelu;
  float embedding_scale = 1.0f;
};

BartStack read_stack(const ConfigValues& values, const std::string& name, int64_t hidden_size) {
  BartStack stack;
  stack.path = "model." + name + ".";
  stack.num_layers = values.size((name + "_layers").c_str());
  stack.num_heads = values.size((name + "_attention_heads").c_str());
  stack.intermediate_size = values.size((name + "_ffn_dim").c_str());
  QUARRY_CHECK(hidden_size % stack.num_heads == 0, ErrorCode::kCorruptData, values.source(),
               ": 'd_model' ", hidden_size, " cannot be cut into ", stack.num_heads, " '", name,
               "_attention_heads'");
  return stack;
}

BartPlan read_plan(const CausalLmSource& source) {
  const ConfigValues values(*source.config, source.description);
  BartPlan plan;
  CausalLmConfig& config = plan.config;
  config.architecture = "bart";
  config.hidden_size = values.size("d_model");
  plan.encoder = read_stack(values, "encoder", config.hidden_size);
  plan.decoder = read_stack(values, "decoder", config.hidden_size);
  config.intermediate_size = plan.decoder.intermediate_size;
  config.num_layers = plan.decoder.num_layers;
  config.num_heads = config.num_kv_heads = plan.decoder.num_heads;
  config.head_dim = config.hidden_size / config.num_heads;
  config.vocab_size = values.size("vocab_size");
  config.max_seq_len = values.size_or("max_position_embeddings", 1024);
  config.norm_epsilon = kNormEpsilon;
  config.tied_head = values.flag_or("tie_word_embeddings", true);
  config.decoder_prompt = read_decoder_prompt(values, 2, config.vocab_size);
  plan.activation = read_activation(values, "activation_function", "gelu");
  if (values.flag_or("scale_embedding", false)) {
    plan.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size));
  }
  for (const char* key :
       {"normalize_before", "add_final_layer_norm", "static_position_embeddings"}) {
    QUARRY_CHECK(!values.flag_or(key, false), ErrorCode::kInvalidArgument, values.source(), ": '",
                 key, "' is true, only false is supported");
  }
  check_config(config, source.description);
  check_encoder(config, plan.encoder.num_layers, config.hidden_size / plan.encoder.num_heads,
                source.description);
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const BartPlan& plan) {
  const CausalLmConfig& config = plan.config;
  const int64_t hidden = config.hidden_size;
  const std::string no_gguf;
  LayoutBuilder layout(source.folder(), "model.");
  LayoutBuilder::LinearOptions biased;
  biased.bias = BiasUse::kRequired;
  layout.embedding("model.shared", no_gguf, config.vocab_size, hidden);
  const auto attention = [&](const std::string& path) {
    for (const char* name : {"k_proj", "v_proj", "q_proj", "out_proj"}) {
      layout.linear(concat(path, ".", name), no_gguf, hidden, hidden, biased);
    }
    layout.layer_norm(path + "_layer_norm", no_gguf, hidden);
  };
  for (const BartStack* stack : {&plan.encoder, &plan.decoder}) {
    layout.table(stack->path + "embed_positions", no_gguf, config.max_seq_len + kPositionOffset,
                 hidden);
    for (int64_t number = 0; number < stack->num_layers; ++number) {
      const std::string layer = concat(stack->path, "layers.", number, ".");
      attention(layer + "self_attn");
      if (stack == &plan.decoder) attention(layer + "encoder_attn");
      layout.linear(layer + "fc1", no_gguf, hidden, stack->intermediate_size, biased);
      layout.linear(layer + "fc2", no_gguf, stack->intermediate_size, hidden, biased);
      layout.layer_norm(layer + "final_layer_norm", no_gguf, hidden);
    }
    layout.layer_norm(stack->path + "layernorm_embedding", no_gguf, hidden);
  }
  layout.head("lm_head", no_gguf, config.vocab_size, hidden, config.tied_head);
  layout.head_bias("final_logits_bias", config.vocab_size);
  return layout.take();
}

struct BartSelfAttention {
  const nn::Linear& qkv;      // E -> 3 E
  const nn::Linear& output;   // E -> E
  const nn::LayerNorm& norm;  // [E]
};

struct BartCrossAttention {
  const nn::Linear& q;        // E -> E
  const nn::Linear& kv;       // E -> 2 E, of the source
  const nn::Linear& output;   // E -> E
  const nn::LayerNorm& norm;  // [E]
};

struct BartFeedForward {
  const nn::Linear& up;       // E -> F
  const nn::Linear& down;     // F -> E
  const nn::LayerNorm& norm;  // [E]
};

struct BartEncoderLayer {
  BartSelfAttention attention;
  BartFeedForward feed_forward;
};

struct BartDecoderLayer {
  BartSelfAttention attention;
  BartCrossAttention cross;
  BartFeedForward feed_forward;
};

struct BartEmbedding {
  const nn::Embedding& positions;  // [max_seq_len + 2, E]
  const nn::LayerNorm& norm;       // [E]
};

class Bart final : public EncoderDecoder {
 public:
  Bart(const BartPlan& plan, DecoderLoader& load)
      : EncoderDecoder(plan.config, plan.encoder.num_layers, load),
        encoder_heads_{plan.encoder.num_heads, plan.encoder.num_heads,
                       config_.hidden_size / plan.encoder.num_heads},
        decoder_heads_{config_.num_heads, config_.num_heads, config_.head_dim},
        activation_(plan.activation),
        embedding_scale_(plan.embedding_scale),
        encoder_embedding_(load_embedding(plan.encoder, load)),
        decoder_embedding_(load_embedding(plan.decoder, load)) {
    for (int64_t number = 0; number < plan.encoder.num_layers; ++number) {
      const std::string path = concat(plan.encoder.path, "layers.", number, ".");
      encoder_.push_back({load_self_attention(path, load), load_feed_forward(path, load)});
    }
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string path = concat(plan.decoder.path, "layers.", number, ".");
      const std::string cross = path + "encoder_attn.";
      decoder_.push_back(
          {load_self_attention(path, load),
           {load.linear({cross + "q_proj"}), load.linear({cross + "k_proj", cross + "v_proj"}),
            load.linear({cross + "out_proj"}),
            load.layer_norm(path + "encoder_attn_layer_norm", kNormEpsilon)},
           load_feed_forward(path, load)});
    }
  }

 protected:
  Tensor embed_source(const EncoderPass& pass) const override {
    std::vector<int32_t> positions(pass.tokens.size());
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
    return embed(encoder_embedding_, pass.tokens, std::move(positions), pass.adapters);
  }

  Tensor embed(const DecoderPass& pass) const override {
    return embed(decoder_embedding_, pass.tokens, pass.positions, pass.adapters);
  }

  Tensor run_encoder_layer(int64_t number, const EncoderPass& pass, Tensor x) const override {
    const BartEncoderLayer& layer = encoder_[static_cast<size_t>(number)];
    Tensor h = layer.attention.qkv.forward(x, pass.adapters, workspace_);
    h = attend_inside(h, encoder_heads_);
    h = layer.attention.output.forward(h, pass.adapters, workspace_);
    x = nn::add(x, h, workspace_);
    x = layer.attention.norm.forward(x, pass.adapters, workspace_);
    return feed_forward(layer.feed_forward, pass.adapters, x);
  }

  Tensor finish_source(const EncoderPass&, Tensor x) const override { return x; }

  const nn::Linear& source_projection(int64_t number) const override {
    return decoder_[static_cast<size_t>(number)].cross.kv;
  }

  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const BartDecoderLayer& layer = decoder_[static_cast<size_t>(number)];
    Tensor h = layer.attention.qkv.forward(x, pass.adapters, workspace_);
    h = attend(h, decoder_heads_, number, pass);
    h = layer.attention.output.forward(h, pass.adapters, workspace_);
    x = nn::add(x, h, workspace_);
    x = layer.attention.norm.forward(x, pass.adapters, workspace_);

    h = layer.cross.q.forward(x, pass.adapters, workspace_);
    h = attend_source(h, decoder_heads_, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = layer.cross.output.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);
    x = layer.cross.norm.forward(x, adapters, workspace_);
    return feed_forward(layer.feed_forward, adapters, x);
  }

  Tensor finish(const DecoderPass&, Tensor x) const override { return x; }

 private:
  static BartEmbedding load_embedding(const BartStack& stack, DecoderLoader& load) {
    return {load.table(stack.path + "embed_positions"),
            load.layer_norm(stack.path + "layernorm_embedding", kNormEpsilon)};
  }
  static BartSelfAttention load_self_attention(const std::string& path, DecoderLoader& load) {
    const std::string attention = path + "self_attn.";
    return {load.linear({attention + "q_proj", attention + "k_proj", attention + "v_proj"}),
            load.linear({attention + "out_proj"}),
            load.layer_norm(path + "self_attn_layer_norm", kNormEpsilon)};
  }
  static BartFeedForward load_feed_forward(const std::string& path, DecoderLoader& load) {
    return {load.linear({path + "fc1"}), load.linear({path + "fc2"}),
            load.layer_norm(path + "final_layer_norm", kNormEpsilon)};
  }

  Tensor embed(const BartEmbedding& embedding, const std::vector<int32_t>& tokens,
               std::vector<int32_t> positions, const Spans& adapters) const {
    Tensor x = embed_tokens(tokens, adapters);
    if (embedding_scale_ != 1.0f) x = nn::scale(x, embedding_scale_, workspace_);
    for (int32_t& position : positions) position += kPositionOffset;
    x = nn::add(x, embedding.positions.forward(positions, workspace_), workspace_);
    return embedding.norm.forward(x, adapters, workspace_);
  }

  Tensor feed_forward(const BartFeedForward& layer, const Spans& adapters, const Tensor& x) const {
    Tensor h = layer.up.forward(x, adapters, workspace_);
    h = activation_(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    h = nn::add(x, h, workspace_);
    return layer.norm.forward(h, adapters, workspace_);
  }

  nn::AttentionHeads encoder_heads_;
  nn::AttentionHeads decoder_heads_;
  Activation activation_;
  float embedding_scale_;
  BartEmbedding encoder_embedding_;
  BartEmbedding decoder_embedding_;
  std::vector<BartEncoderLayer> encoder_;
  std::vector<BartDecoderLayer> decoder_;
};

}  // namespace

CausalLmFamily bart_family() {
  return decoder_family<Bart, read_plan, make_layout>(nullptr, "BartForConditionalGeneration",
                                                      nullptr);
}

}  // namespace quarry
