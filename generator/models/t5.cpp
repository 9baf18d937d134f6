// T5 (Raffel et al. 2020, arXiv:1910.10683), T5 1.1 (Shazeer 2020, arXiv:2002.05202), so FLAN-T5,
// and mT5 (Xue et al. 2021, arXiv:2010.11934), so mT0: pre-norm encoder-decoder with RMSNorm,
// scores that are not scaled, and positions as biases of the scores by distance. Read from folders.
#include <cmath>
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder_config.h"
#include "generator/models/encoder_decoder.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"
#include "generator/nn/relative_bias.h"

namespace quarry {
namespace {

// Positions have no table that ends: a limit of ours, far beyond what the models were trained on.
constexpr int64_t kMaxSeqLen = 4096;

struct T5Plan {
  CausalLmConfig config;
  int64_t num_encoder_layers = 0;
  int64_t num_buckets = 0;
  int64_t max_distance = 0;
  bool gated = false;
  Activation activation = nn::relu;  // gated: of the gate beside what it multiplies
  float head_scale = 1.0f;           // of the states before the head
};

void read_feed_forward(const ConfigValues& values, T5Plan& plan) {
  const std::string name = values.text_or(
      "feed_forward_proj", plan.config.architecture == "mt5" ? "gated-gelu" : "relu");
  plan.gated = name.rfind("gated-", 0) == 0;
  if (name == "gated-gelu") {
    plan.activation = nn::geglu_tanh;
  } else if (name == "gated-silu") {
    plan.activation = nn::swiglu;
  } else if (name == "gelu") {
    plan.activation = nn::gelu;
  } else {
    QUARRY_CHECK(name == "relu", ErrorCode::kInvalidArgument, values.source(),
                 ": 'feed_forward_proj' is '", name,
                 "', only relu, gelu, gated-gelu and gated-silu are supported");
  }
}

// T5's head is its embedding, and its states are scaled; T5 1.1 says tie_word_embeddings false
// instead. transformers 5 writes scale_decoder_outputs, and tie_word_embeddings true whatever the
// head is; both keys stand where a head of its own was merged into a T5. mT5 is never scaled.
void read_head(const ConfigValues& values, const CausalLmSource& source, T5Plan& plan) {
  CausalLmConfig& config = plan.config;
  const bool tied = values.flag_or("tie_word_embeddings", true);
  const bool scaled = config.architecture == "t5" && values.flag_or("scale_decoder_outputs", tied);
  config.tied_head = (scaled && tied) || source.tensors->find("lm_head.weight") == nullptr;
  if (scaled) plan.head_scale = 1.0f / std::sqrt(static_cast<float>(config.hidden_size));
}

T5Plan read_plan(const CausalLmSource& source) {
  const ConfigValues values(*source.config, source.description);
  T5Plan plan;
  CausalLmConfig& config = plan.config;
  config.architecture = values.text_or("model_type", "t5");
  config.hidden_size = values.size("d_model");
  config.intermediate_size = values.size("d_ff");
  plan.num_encoder_layers = values.size("num_layers");
  config.num_layers = values.size_or("num_decoder_layers", plan.num_encoder_layers);
  config.num_heads = config.num_kv_heads = values.size("num_heads");
  config.head_dim = values.size("d_kv");
  config.vocab_size = values.size("vocab_size");
  config.max_seq_len = kMaxSeqLen;
  config.norm_epsilon = values.number_or("layer_norm_epsilon", 1e-6);
  config.decoder_prompt =
      read_decoder_prompt(values, values.token_or("pad_token_id", 0), config.vocab_size);
  plan.num_buckets = values.size_or("relative_attention_num_buckets", 32);
  plan.max_distance = values.size_or("relative_attention_max_distance", 128);
  QUARRY_CHECK(plan.num_buckets >= 4 && plan.num_buckets % 2 == 0 &&
                   plan.max_distance > plan.num_buckets / 2 && plan.max_distance <= kMaxSeqLen,
               ErrorCode::kInvalidArgument, values.source(), ": ", plan.num_buckets,
               " 'relative_attention_num_buckets' up to a 'relative_attention_max_distance' of ",
               plan.max_distance, " are not supported");
  read_feed_forward(values, plan);
  read_head(values, source, plan);
  check_config(config, source.description);
  check_encoder(config, plan.num_encoder_layers, config.head_dim, source.description);
  return plan;
}

std::string block_path(const std::string& stack, int64_t number) {
  return concat(stack, ".block.", number, ".layer.");
}

ModelLayout make_layout(const CausalLmSource& source, const T5Plan& plan) {
  const CausalLmConfig& config = plan.config;
  const int64_t hidden = config.hidden_size;
  const int64_t width = config.num_heads * config.head_dim;
  const std::string no_gguf;
  LayoutBuilder layout(source.folder(), "");
  LayoutBuilder::LinearOptions bare;
  bare.bias = BiasUse::kNone;
  layout.embedding("shared", no_gguf, config.vocab_size, hidden);
  const auto attention = [&](const std::string& layer, const std::string& name) {
    for (const char* part : {".q", ".k", ".v"}) {
      layout.linear(layer + name + part, no_gguf, hidden, width, bare);
    }
    layout.linear(layer + name + ".o", no_gguf, width, hidden, bare);
    layout.rms_norm(layer + "layer_norm", no_gguf, hidden);
  };
  const auto stack = [&](const std::string& name, int64_t num_layers, bool sees_source) {
    layout.table(block_path(name, 0) + "0.SelfAttention.relative_attention_bias", no_gguf,
                 plan.num_buckets, config.num_heads);
    for (int64_t number = 0; number < num_layers; ++number) {
      const std::string block = block_path(name, number);
      attention(block + "0.", "SelfAttention");
      if (sees_source) attention(block + "1.", "EncDecAttention");
      const std::string layer = block + (sees_source ? "2." : "1.");
      for (const char* part : plan.gated ? std::vector{"wi_0", "wi_1"} : std::vector{"wi"}) {
        layout.linear(layer + "DenseReluDense." + part, no_gguf, hidden, config.intermediate_size,
                      bare);
      }
      layout.linear(layer + "DenseReluDense.wo", no_gguf, config.intermediate_size, hidden, bare);
      layout.rms_norm(layer + "layer_norm", no_gguf, hidden);
    }
    layout.rms_norm(name + ".final_layer_norm", no_gguf, hidden);
  };
  stack("encoder", plan.num_encoder_layers, false);
  stack("decoder", config.num_layers, true);
  layout.head("lm_head", no_gguf, config.vocab_size, hidden, config.tied_head);
  return layout.take();
}

struct T5SelfAttention {
  const nn::RmsNorm& norm;   // [E]
  const nn::Linear& qkv;     // E -> 3 H D
  const nn::Linear& output;  // H D -> E
};

struct T5CrossAttention {
  const nn::RmsNorm& norm;   // [E]
  const nn::Linear& q;       // E -> H D
  const nn::Linear& kv;      // E -> 2 H D, of the source
  const nn::Linear& output;  // H D -> E
};

struct T5FeedForward {
  const nn::RmsNorm& norm;  // [E]
  const nn::Linear& up;     // E -> F, gated: 2 F
  const nn::Linear& down;   // F -> E
};

struct T5EncoderBlock {
  T5SelfAttention attention;
  T5FeedForward feed_forward;
};

struct T5DecoderBlock {
  T5SelfAttention attention;
  T5CrossAttention cross;
  T5FeedForward feed_forward;
};

// Makes the parts of a block; `layer`: the path of one.
struct T5Parts {
  const T5Plan& plan;
  DecoderLoader& load;

  const nn::RmsNorm& norm(const std::string& path) const {
    return load.rms_norm(path, plan.config.norm_epsilon);
  }
  T5SelfAttention self_attention(const std::string& layer) const {
    const std::string path = layer + "SelfAttention.";
    return {norm(layer + "layer_norm"), load.linear({path + "q", path + "k", path + "v"}),
            load.linear({path + "o"})};
  }
  T5CrossAttention cross_attention(const std::string& layer) const {
    const std::string path = layer + "EncDecAttention.";
    return {norm(layer + "layer_norm"), load.linear({path + "q"}),
            load.linear({path + "k", path + "v"}), load.linear({path + "o"})};
  }
  T5FeedForward feed_forward(const std::string& layer) const {
    const std::string path = layer + "DenseReluDense.";
    return {norm(layer + "layer_norm"),
            plan.gated ? load.linear({path + "wi_0", path + "wi_1"}) : load.linear({path + "wi"}),
            load.linear({path + "wo"})};
  }
  // Of the first block; all others of the stack use it, too.
  nn::RelativeBiasTable biases(const std::string& stack, bool bidirectional) const {
    nn::RelativeBuckets buckets;
    buckets.num_buckets = plan.num_buckets;
    buckets.max_distance = plan.max_distance;
    buckets.bidirectional = bidirectional;
    return {buckets, load.table(block_path(stack, 0) + "0.SelfAttention.relative_attention_bias")};
  }
};

class T5 final : public EncoderDecoder {
 public:
  T5(const T5Plan& plan, DecoderLoader& load)
      : EncoderDecoder(plan.config, plan.num_encoder_layers, load),
        activation_(plan.activation),
        head_scale_(plan.head_scale),
        encoder_biases_(T5Parts{plan, load}.biases("encoder", true)),
        decoder_biases_(T5Parts{plan, load}.biases("decoder", false)) {
    const T5Parts parts{plan, load};
    cross_heads_ = {config_.num_heads, config_.num_heads, config_.head_dim};
    cross_heads_.scale = 1.0f;
    encoder_heads_ = decoder_heads_ = cross_heads_;
    encoder_heads_.relative_bias = encoder_biases_.view();
    decoder_heads_.relative_bias = decoder_biases_.view();
    for (int64_t number = 0; number < plan.num_encoder_layers; ++number) {
      const std::string block = block_path("encoder", number);
      encoder_.push_back({parts.self_attention(block + "0."), parts.feed_forward(block + "1.")});
    }
    encoder_norm_ = &parts.norm("encoder.final_layer_norm");
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string block = block_path("decoder", number);
      decoder_.push_back({parts.self_attention(block + "0."), parts.cross_attention(block + "1."),
                          parts.feed_forward(block + "2.")});
    }
    decoder_norm_ = &parts.norm("decoder.final_layer_norm");
  }

 protected:
  Tensor embed_source(const EncoderPass& pass) const override {
    return embed_tokens(pass.tokens, pass.adapters);
  }

  Tensor run_encoder_layer(int64_t number, const EncoderPass& pass, Tensor x) const override {
    const T5EncoderBlock& block = encoder_[static_cast<size_t>(number)];
    Tensor h = block.attention.norm.forward(x, pass.adapters, workspace_);
    h = block.attention.qkv.forward(h, pass.adapters, workspace_);
    h = attend_inside(h, encoder_heads_);
    h = block.attention.output.forward(h, pass.adapters, workspace_);
    x = nn::add(x, h, workspace_);
    return feed_forward(block.feed_forward, pass.adapters, x);
  }

  Tensor finish_source(const EncoderPass& pass, Tensor x) const override {
    return encoder_norm_->forward(x, pass.adapters, workspace_);
  }

  const nn::Linear& source_projection(int64_t number) const override {
    return decoder_[static_cast<size_t>(number)].cross.kv;
  }

  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const T5DecoderBlock& block = decoder_[static_cast<size_t>(number)];
    Tensor h = block.attention.norm.forward(x, pass.adapters, workspace_);
    h = block.attention.qkv.forward(h, pass.adapters, workspace_);
    h = attend(h, decoder_heads_, number, pass);
    h = block.attention.output.forward(h, pass.adapters, workspace_);
    x = nn::add(x, h, workspace_);

    h = block.cross.norm.forward(x, pass.adapters, workspace_);
    h = block.cross.q.forward(h, pass.adapters, workspace_);
    h = attend_source(h, cross_heads_, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = block.cross.output.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);
    return feed_forward(block.feed_forward, adapters, x);
  }

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    x = decoder_norm_->forward(x, pass.logit_adapters, workspace_);
    return head_scale_ == 1.0f ? x : nn::scale(x, head_scale_, workspace_);
  }

 private:
  Tensor feed_forward(const T5FeedForward& layer, const Spans& adapters, const Tensor& x) const {
    Tensor h = layer.norm.forward(x, adapters, workspace_);
    h = layer.up.forward(h, adapters, workspace_);
    h = activation_(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    return nn::add(x, h, workspace_);
  }

  Activation activation_;
  float head_scale_;
  nn::RelativeBiasTable encoder_biases_;
  nn::RelativeBiasTable decoder_biases_;
  nn::AttentionHeads encoder_heads_;
  nn::AttentionHeads decoder_heads_;
  nn::AttentionHeads cross_heads_;
  std::vector<T5EncoderBlock> encoder_;
  std::vector<T5DecoderBlock> decoder_;
  const nn::RmsNorm* encoder_norm_;
  const nn::RmsNorm* decoder_norm_;
};

}  // namespace

CausalLmFamily t5_family() {
  return decoder_family<T5, read_plan, make_layout>(nullptr, "T5ForConditionalGeneration", nullptr);
}

CausalLmFamily mt5_family() {
  return decoder_family<T5, read_plan, make_layout>(nullptr, "MT5ForConditionalGeneration",
                                                    nullptr);
}

}  // namespace quarry
