#include "generator/models/bert_stack.h"

#include <ATen/core/grad_mode.h>

#include "data/core/error.h"
#include "generator/nn/activations.h"
#include "generator/nn/attention.h"
#include "generator/nn/functional.h"
#include "generator/nn/load.h"

namespace quarry {
namespace {

using nn::Tensor;

constexpr const char* kWordTable = "embeddings.word_embeddings.weight";

std::string layer_path(int64_t number) { return concat("encoder.layer.", number, "."); }

// `path`: of the layer in the bare model.
BertLayer load_layer(const TensorSource& source, const BertConfig& config, const std::string& path,
                     kernels::Precision precision) {
  const std::string prefix = config.root + path;
  const auto project = [&](const std::string& name, int64_t in, int64_t out) {
    nn::Projection projection;
    projection.path = config.path + path + name;
    projection.weight = &nn::get_checked(source, prefix + name + ".weight", {out, in});
    projection.bias = &nn::get_checked(source, prefix + name + ".bias", {out});
    return projection;
  };
  const auto vector = [&](const std::string& name) {
    return nn::load_vector(source, prefix + name, config.hidden_size);
  };
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  return {
      nn::Linear({project("attention.self.query", hidden, hidden),
                  project("attention.self.key", hidden, hidden),
                  project("attention.self.value", hidden, hidden)},
                 precision),
      nn::Linear({project("attention.output.dense", hidden, hidden)}, precision),
      vector("attention.output.LayerNorm.weight"),
      vector("attention.output.LayerNorm.bias"),
      nn::Linear({project("intermediate.dense", hidden, inner)}, precision),
      nn::Linear({project("output.dense", inner, hidden)}, precision),
      vector("output.LayerNorm.weight"),
      vector("output.LayerNorm.bias"),
  };
}

nn::Embedding load_table(const TensorSource& source, const std::string& name, int64_t rows,
                         int64_t width) {
  return nn::Embedding(nn::get_checked(source, name, {rows, width}));
}

}  // namespace

BertConfig read_bert_config(const ConfigValues& values) {
  BertConfig config;
  config.hidden_size = values.size("hidden_size");
  config.intermediate_size = values.size("intermediate_size");
  config.num_layers = values.size("num_hidden_layers");
  config.num_heads = values.size("num_attention_heads");
  config.vocab_size = values.size("vocab_size");
  config.max_positions = values.size("max_position_embeddings");
  config.num_token_types = values.size_or("type_vocab_size", 2);
  config.norm_epsilon = static_cast<float>(values.number_or("layer_norm_eps", 1e-12));
  values.require_text("hidden_act", "gelu");
  values.require_text("position_embedding_type", "absolute");
  values.require_absent("quantization_config");
  QUARRY_CHECK(
      config.hidden_size % config.num_heads == 0 && config.hidden_size / config.num_heads <= 256,
      ErrorCode::kCorruptData, values.source(), ": hidden size ", config.hidden_size,
      " cannot be cut into ", config.num_heads, " attention heads of at most 256");
  return config;
}

std::string find_bert_root(const TensorSource& tensors, const std::string& root) {
  const bool is_below =
      tensors.find(kWordTable) == nullptr && tensors.find(root + kWordTable) != nullptr;
  return is_below ? root : "";
}

BertStack::BertStack(const TensorSource& tensors, const BertConfig& config,
                     kernels::Precision precision)
    : config_(config),
      rounds_(precision != kernels::Precision::kExact),
      word_embedding_(
          load_table(tensors, config.root + kWordTable, config.vocab_size, config.hidden_size)),
      position_embedding_(load_table(tensors, config.root + "embeddings.position_embeddings.weight",
                                     config.max_positions, config.hidden_size)),
      type_embedding_(load_table(tensors, config.root + "embeddings.token_type_embeddings.weight",
                                 config.num_token_types, config.hidden_size)) {
  const at::NoGradGuard no_grad;
  nn::Workspace workspace;
  first_type_ = type_embedding_.forward({0}, workspace);
  const int64_t hidden = config.hidden_size;
  const std::string norm = config.root + "embeddings.LayerNorm.";
  embedding_norm_weight_ = nn::load_vector(tensors, norm + "weight", hidden);
  embedding_norm_bias_ = nn::load_vector(tensors, norm + "bias", hidden);
  for (int64_t number = 0; number < config.num_layers; ++number) {
    layers_.push_back(load_layer(tensors, config_, layer_path(number), precision));
  }
}

std::vector<CausalLm::LinearSlot> BertStack::linear_slots() const {
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.intermediate_size;
  std::vector<CausalLm::LinearSlot> slots;
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const std::string path = config_.path + layer_path(layer);
    for (const char* part : {"query", "key", "value"}) {
      slots.push_back({path + "attention.self." + part, hidden, hidden});
    }
    slots.push_back({path + "attention.output.dense", hidden, hidden});
    slots.push_back({path + "intermediate.dense", hidden, inner});
    slots.push_back({path + "output.dense", inner, hidden});
  }
  if (config_.has_pooler) slots.push_back({config_.path + "pooler.dense", hidden, hidden});
  return slots;
}

Tensor BertStack::embed(const TextBatch& batch, nn::Workspace& workspace) const {
  Tensor x = word_embedding_.forward(batch.ids, workspace);
  // A model of one type has that for every token, whatever the pair template says.
  if (batch.types.empty() || config_.num_token_types == 1) {
    x = nn::add_row(x, first_type_, workspace);
  } else {
    x = nn::add(x, type_embedding_.forward(batch.types, workspace), workspace);
  }
  std::vector<int32_t> positions = batch.positions;
  for (int32_t& position : positions) position += static_cast<int32_t>(config_.position_offset);
  return nn::add_layer_norm(x, position_embedding_.forward(positions, workspace),
                            embedding_norm_weight_, embedding_norm_bias_, config_.norm_epsilon,
                            workspace);
}

Tensor BertStack::forward(const TextBatch& batch, const LoraAdapter* adapter,
                          LoraGradients* gradients, nn::Workspace& workspace) const {
  const float epsilon = config_.norm_epsilon;
  nn::AttentionHeads heads{config_.num_heads, config_.num_heads,
                           config_.hidden_size / config_.num_heads};
  heads.rounds = rounds_;
  std::vector<nn::AdapterSpan> spans;
  if (adapter != nullptr) spans.push_back({0, batch.num_rows(), adapter, gradients});
  Tensor x = embed(batch, workspace);
  if (device_ != nullptr && !at::GradMode::is_enabled()) {
    device_->run(batch, adapter, x.data_ptr<float>());
    return x;
  }
  for (const BertLayer& layer : layers_) {
    Tensor h = layer.qkv.forward(x, spans, workspace);
    h = nn::bidirectional_attention(h, heads, batch.starts, workspace);
    h = layer.attention_output.forward(h, spans, workspace);
    x = nn::add_layer_norm(h, x, layer.attention_norm_weight, layer.attention_norm_bias, epsilon,
                           workspace);
    h = layer.intermediate.forward(x, spans, workspace);
    h = nn::gelu(h, workspace);
    h = layer.output.forward(h, spans, workspace);
    x = nn::add_layer_norm(h, x, layer.output_norm_weight, layer.output_norm_bias, epsilon,
                           workspace);
  }
  return x;
}

}  // namespace quarry
