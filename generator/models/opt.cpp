// OPT (Zhang et al. 2022, arXiv:2205.01068): LayerNorm before each block (in OPT-350m after it),
// learned positions and ReLU. GGUF does not have it.
#include <utility>

#include "data/core/error.h"
#include "generator/models/decoder.h"
#include "generator/models/decoder_config.h"
#include "generator/models/families.h"
#include "generator/nn/activations.h"
#include "generator/nn/functional.h"

namespace quarry {
namespace {

constexpr int64_t kPositionOffset = 2;  // of the first position in its table

struct OptPlan {
  CausalLmConfig config;
  int64_t embedding_width = 0;  // another than hidden_size: projected into and out of the layers
  bool norm_before = true;
  bool final_norm = true;
  BiasUse bias = BiasUse::kRequired;
  Activation activation = nn::relu;
};

OptPlan read_plan(const CausalLmSource& source) {
  const ConfigValues values(*source.config, source.description);
  OptPlan plan;
  CausalLmConfig& config = plan.config;
  config.architecture = "opt";
  config.hidden_size = values.size("hidden_size");
  config.intermediate_size = values.size("ffn_dim");
  config.num_layers = values.size("num_hidden_layers");
  config.num_heads = config.num_kv_heads = values.size("num_attention_heads");
  config.head_dim = config.hidden_size / config.num_heads;
  config.vocab_size = values.size("vocab_size");
  config.max_seq_len = values.size("max_position_embeddings");
  config.tied_head = values.flag_or("tie_word_embeddings", true);
  plan.embedding_width = values.size_or("word_embed_proj_dim", config.hidden_size);
  plan.norm_before = values.flag_or("do_layer_norm_before", true);
  plan.final_norm = plan.norm_before && !values.flag_or("_remove_final_layer_norm", false);
  plan.bias = values.flag_or("enable_bias", true) ? BiasUse::kRequired : BiasUse::kNone;
  plan.activation = read_activation(values, "activation_function", "relu");
  QUARRY_CHECK(values.flag_or("layer_norm_elementwise_affine", true), ErrorCode::kInvalidArgument,
               values.source(),
               ": 'layer_norm_elementwise_affine' is false, only true is supported");
  check_config(config, source.description);
  check_whole_heads(config, source.description);
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const OptPlan& plan) {
  const int64_t hidden = plan.config.hidden_size;
  const int64_t inner = plan.config.intermediate_size;
  const std::string no_gguf;
  const std::string root = "model.decoder.";
  LayoutBuilder layout(source.folder(), "model.");
  LayoutBuilder::LinearOptions options;
  options.bias = plan.bias;
  layout.embedding(root + "embed_tokens", no_gguf, plan.config.vocab_size, plan.embedding_width);
  layout.table(root + "embed_positions", no_gguf, plan.config.max_seq_len + kPositionOffset,
               hidden);
  if (plan.embedding_width != hidden) {
    LayoutBuilder::LinearOptions bare;
    bare.bias = BiasUse::kNone;
    layout.linear(root + "project_in", no_gguf, plan.embedding_width, hidden, bare);
    layout.linear(root + "project_out", no_gguf, hidden, plan.embedding_width, bare);
  }
  for (int64_t number = 0; number < plan.config.num_layers; ++number) {
    const std::string layer = root + "layers." + std::to_string(number) + ".";
    layout.layer_norm(layer + "self_attn_layer_norm", no_gguf, hidden);
    for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      layout.linear(layer + "self_attn." + name, no_gguf, hidden, hidden, options);
    }
    layout.layer_norm(layer + "final_layer_norm", no_gguf, hidden);
    layout.linear(layer + "fc1", no_gguf, hidden, inner, options);
    layout.linear(layer + "fc2", no_gguf, inner, hidden, options);
  }
  if (plan.final_norm) layout.layer_norm(root + "final_layer_norm", no_gguf, hidden);
  layout.head("lm_head", no_gguf, plan.config.vocab_size, plan.embedding_width,
              plan.config.tied_head);
  return layout.take();
}

struct OptLayer {
  const nn::LayerNorm& attention_norm;  // [E]
  const nn::Linear& qkv;                // E -> 3 E
  const nn::Linear& attention_output;   // E -> E
  const nn::LayerNorm& mlp_norm;        // [E]
  const nn::Linear& up;                 // E -> F
  const nn::Linear& down;               // F -> E
};

class Opt final : public Decoder {
 public:
  Opt(const OptPlan& plan, DecoderLoader& load)
      : Decoder(plan.config, load),
        heads_{config_.num_heads, config_.num_heads, config_.head_dim},
        norm_before_(plan.norm_before),
        activation_(plan.activation),
        positions_(load.table("model.decoder.embed_positions")) {
    const std::string root = "model.decoder.";
    const double epsilon = config_.norm_epsilon;
    if (plan.embedding_width != config_.hidden_size) {
      project_in_ = &load.linear({root + "project_in"});
      project_out_ = &load.linear({root + "project_out"});
    }
    for (int64_t number = 0; number < config_.num_layers; ++number) {
      const std::string path = root + "layers." + std::to_string(number) + ".";
      const std::string attention = path + "self_attn.";
      layers_.push_back(
          {load.layer_norm(path + "self_attn_layer_norm", epsilon),
           load.linear({attention + "q_proj", attention + "k_proj", attention + "v_proj"}),
           load.linear({attention + "out_proj"}),
           load.layer_norm(path + "final_layer_norm", epsilon), load.linear({path + "fc1"}),
           load.linear({path + "fc2"})});
    }
    if (plan.final_norm) final_norm_ = &load.layer_norm(root + "final_layer_norm", epsilon);
  }

 protected:
  Tensor embed(const DecoderPass& pass) const override {
    Tensor x = embed_tokens(pass);
    if (project_in_ != nullptr) x = project_in_->forward(x, pass.adapters, workspace_);
    std::vector<int32_t> rows = pass.positions;
    for (int32_t& row : rows) row += kPositionOffset;
    return nn::add(x, positions_.forward(rows, workspace_), workspace_);
  }

  Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const override {
    const OptLayer& layer = layers_[static_cast<size_t>(number)];
    Tensor h = norm_before_ ? layer.attention_norm.forward(x, pass.adapters, workspace_) : x;
    h = layer.qkv.forward(h, pass.adapters, workspace_);
    h = attend(h, heads_, number, pass);
    const Spans& adapters = keep_logit_rows(number, pass, h, x);
    h = layer.attention_output.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);
    if (!norm_before_) x = layer.attention_norm.forward(x, adapters, workspace_);

    h = norm_before_ ? layer.mlp_norm.forward(x, adapters, workspace_) : x;
    h = layer.up.forward(h, adapters, workspace_);
    h = activation_(h, workspace_);
    h = layer.down.forward(h, adapters, workspace_);
    x = nn::add(x, h, workspace_);
    return norm_before_ ? x : layer.mlp_norm.forward(x, adapters, workspace_);
  }

  Tensor finish(const DecoderPass& pass, Tensor x) const override {
    const Spans& adapters = pass.logit_adapters;
    if (final_norm_ != nullptr) x = final_norm_->forward(x, adapters, workspace_);
    return project_out_ == nullptr ? x : project_out_->forward(x, adapters, workspace_);
  }

 private:
  nn::AttentionHeads heads_;
  bool norm_before_;
  Activation activation_;
  const nn::Embedding& positions_;             // [max_seq_len + 2, E]
  const nn::Linear* project_in_ = nullptr;     // null: none
  const nn::Linear* project_out_ = nullptr;    // null: none
  const nn::LayerNorm* final_norm_ = nullptr;  // null: none
  std::vector<OptLayer> layers_;
};

}  // namespace

CausalLmFamily opt_family() {
  return decoder_family<Opt, read_plan, make_layout>(nullptr, "OPTForCausalLM", nullptr);
}

}  // namespace quarry
