// BERT (Devlin et al. 2018, arXiv:1810.04805) as a sentence encoder (Reimers & Gurevych 2019,
// arXiv:1908.10084): post-norm bidirectional encoder, pooled and scaled to length 1.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/models/config_values.h"
#include "generator/models/families.h"
#include "generator/nn/activations.h"
#include "generator/nn/attention.h"
#include "generator/nn/embedding.h"
#include "generator/nn/functional.h"
#include "generator/nn/linear.h"
#include "generator/nn/load.h"

namespace quarry {
namespace {

using nn::Tensor;

// Rows that one pass through the layers holds: enough to use every weight many times, few enough
// for the activations to stay in the cache.
constexpr int64_t kRowsPerBatch = 512;

struct BertConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  int64_t num_token_types = 0;
  float norm_epsilon = 1e-12f;
};

BertConfig read_config(const ConfigValues& values) {
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

struct BertLayer {
  nn::Linear qkv;  // E -> 3 E
  nn::Linear attention_output;
  Tensor attention_norm_weight;  // [E]
  Tensor attention_norm_bias;
  nn::Linear intermediate;  // E -> F
  nn::Linear output;        // F -> E
  Tensor output_norm_weight;
  Tensor output_norm_bias;
};

BertLayer load_layer(const TensorSource& source, const BertConfig& config,
                     const std::string& prefix, kernels::Precision precision) {
  const auto project = [&](const std::string& name, int64_t in, int64_t out) {
    nn::Projection projection;
    projection.path = prefix + name;
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

class Bert final : public TextEncoder {
 public:
  Bert(const TextEncoderSource& source, const BertConfig& config,
       std::unique_ptr<Tokenizer> tokenizer, kernels::Precision precision);

  int64_t dim() const override { return config_.hidden_size; }
  int64_t max_tokens() const override { return max_tokens_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  std::vector<float> encode(const std::vector<std::string>& texts) const override;

 private:
  std::vector<std::vector<int32_t>> tokenize(const std::vector<std::string>& texts) const;
  // ids and positions [T]  ->  token vectors [T, E]. Text i is rows [starts[i], starts[i + 1]).
  Tensor forward(const std::vector<int32_t>& ids, const std::vector<int32_t>& positions,
                 const std::vector<int64_t>& starts, nn::Workspace& workspace) const;
  // Vectors of texts order[first .. last) into their places of `vectors`.
  void encode_batch(const std::vector<std::vector<int32_t>>& ids, const std::vector<size_t>& order,
                    size_t first, size_t last, nn::Workspace& workspace, float* vectors) const;
  // Token vectors of one text [num_rows, E] -> unit vector [E].
  void pool(const float* rows, int64_t num_rows, float* destination) const;

  BertConfig config_;
  Pooling pooling_;
  int64_t max_tokens_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<nn::Embedding> word_embedding_;
  std::unique_ptr<nn::Embedding> position_embedding_;
  Tensor token_type_;  // [E], of the first segment: texts are never paired
  Tensor embedding_norm_weight_;
  Tensor embedding_norm_bias_;
  std::vector<BertLayer> layers_;
  mutable std::vector<nn::Workspace> workspaces_;  // of encode()'s threads, one each
};

Bert::Bert(const TextEncoderSource& source, const BertConfig& config,
           std::unique_ptr<Tokenizer> tokenizer, kernels::Precision precision)
    : config_(config), pooling_(source.pooling), tokenizer_(std::move(tokenizer)) {
  const TensorSource& tensors = *source.tensors;
  max_tokens_ = source.max_tokens > 0 ? std::min(source.max_tokens, config_.max_positions)
                                      : config_.max_positions;
  QUARRY_CHECK(tokenizer_->vocab_size() <= config_.vocab_size, ErrorCode::kCorruptData,
               source.description, ": the tokenizer knows ", tokenizer_->vocab_size(),
               " tokens, the model ", config_.vocab_size);
  // BertModel saves its weights bare, BertFor... under "bert.".
  const char* word_table = "embeddings.word_embeddings.weight";
  const std::string root =
      tensors.find(word_table) == nullptr && tensors.find(std::string("bert.") + word_table)
          ? "bert."
          : "";
  const int64_t hidden = config_.hidden_size;
  word_embedding_ = std::make_unique<nn::Embedding>(
      nn::get_checked(tensors, root + word_table, {config_.vocab_size, hidden}));
  position_embedding_ = std::make_unique<nn::Embedding>(nn::get_checked(
      tensors, root + "embeddings.position_embeddings.weight", {config_.max_positions, hidden}));
  const TensorView& types = nn::get_checked(
      tensors, root + "embeddings.token_type_embeddings.weight", {config_.num_token_types, hidden});
  const at::NoGradGuard no_grad;
  nn::Workspace workspace;
  token_type_ = nn::Embedding(types).forward({0}, workspace);
  embedding_norm_weight_ = nn::load_vector(tensors, root + "embeddings.LayerNorm.weight", hidden);
  embedding_norm_bias_ = nn::load_vector(tensors, root + "embeddings.LayerNorm.bias", hidden);
  for (int64_t number = 0; number < config_.num_layers; ++number) {
    layers_.push_back(load_layer(
        tensors, config_, root + "encoder.layer." + std::to_string(number) + ".", precision));
  }
}

std::vector<std::vector<int32_t>> Bert::tokenize(const std::vector<std::string>& texts) const {
  std::vector<std::vector<int32_t>> ids(texts.size());
  parallel_for(static_cast<int64_t>(texts.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::vector<int32_t>& row = ids[static_cast<size_t>(i)];
      row = tokenizer_->encode(texts[static_cast<size_t>(i)], Tokenizer::SpecialTokens::kAdd);
      if (static_cast<int64_t>(row.size()) <= max_tokens_) continue;
      // The text is cut, its closing [SEP] stays.
      row[static_cast<size_t>(max_tokens_) - 1] = row.back();
      row.resize(static_cast<size_t>(max_tokens_));
    }
  });
  return ids;
}

Tensor Bert::forward(const std::vector<int32_t>& ids, const std::vector<int32_t>& positions,
                     const std::vector<int64_t>& starts, nn::Workspace& workspace) const {
  const float epsilon = config_.norm_epsilon;
  const nn::AttentionHeads heads{config_.num_heads, config_.num_heads,
                                 config_.hidden_size / config_.num_heads};
  Tensor x = word_embedding_->forward(ids, workspace);
  x = nn::add_row(x, token_type_, workspace);
  x = nn::add_layer_norm(x, position_embedding_->forward(positions, workspace),
                         embedding_norm_weight_, embedding_norm_bias_, epsilon, workspace);
  for (const BertLayer& layer : layers_) {
    Tensor h = layer.qkv.forward(x, workspace);
    h = nn::bidirectional_attention(h, heads, starts, workspace);
    h = layer.attention_output.forward(h, workspace);
    x = nn::add_layer_norm(h, x, layer.attention_norm_weight, layer.attention_norm_bias, epsilon,
                           workspace);
    h = layer.intermediate.forward(x, workspace);
    h = nn::gelu(h, workspace);
    h = layer.output.forward(h, workspace);
    x = nn::add_layer_norm(h, x, layer.output_norm_weight, layer.output_norm_bias, epsilon,
                           workspace);
  }
  return x;
}

void Bert::pool(const float* rows, int64_t num_rows, float* destination) const {
  const int64_t width = config_.hidden_size;
  std::copy(rows, rows + width, destination);
  if (pooling_ == Pooling::kMean) {
    for (int64_t row = 1; row < num_rows; ++row) {
      for (int64_t i = 0; i < width; ++i) destination[i] += rows[row * width + i];
    }
  }
  // A mean and its sum have the same direction.
  double squares = 0.0;
  for (int64_t i = 0; i < width; ++i) {
    squares += static_cast<double>(destination[i]) * static_cast<double>(destination[i]);
  }
  const float scale = squares > 0.0 ? static_cast<float>(1.0 / std::sqrt(squares)) : 0.0f;
  for (int64_t i = 0; i < width; ++i) destination[i] *= scale;
}

void Bert::encode_batch(const std::vector<std::vector<int32_t>>& ids,
                        const std::vector<size_t>& order, size_t first, size_t last,
                        nn::Workspace& workspace, float* vectors) const {
  const at::NoGradGuard no_grad;
  std::vector<int32_t> batch_ids;
  std::vector<int32_t> positions;
  std::vector<int64_t> starts = {0};
  for (size_t i = first; i < last; ++i) {
    const std::vector<int32_t>& row = ids[order[i]];
    batch_ids.insert(batch_ids.end(), row.begin(), row.end());
    for (size_t t = 0; t < row.size(); ++t) positions.push_back(static_cast<int32_t>(t));
    starts.push_back(static_cast<int64_t>(batch_ids.size()));
  }
  const Tensor rows = forward(batch_ids, positions, starts, workspace);
  for (size_t i = first; i < last; ++i) {
    const int64_t begin = starts[i - first];
    pool(nn::row_data(rows, begin), starts[i - first + 1] - begin,
         vectors + order[i] * static_cast<size_t>(dim()));
  }
}

std::vector<float> Bert::encode(const std::vector<std::string>& texts) const {
  const std::vector<std::vector<int32_t>> ids = tokenize(texts);
  // By length, so that a batch's texts take the same time.
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return ids[a].size() < ids[b].size(); });
  std::vector<size_t> borders = {0};  // batch i is order[borders[i] .. borders[i + 1])
  int64_t rows = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const auto length = static_cast<int64_t>(ids[order[i]].size());
    if (rows > 0 && rows + length > kRowsPerBatch) {
      borders.push_back(i);
      rows = 0;
    }
    rows += length;
  }
  borders.push_back(order.size());
  const size_t num_batches = texts.empty() ? 0 : borders.size() - 1;

  // A thread takes whole batches: nothing to wait for inside the layers. A lone batch (a query)
  // runs on this thread and the kernels share its rows out.
  std::vector<float> vectors(texts.size() * static_cast<size_t>(dim()));
  const auto workers = std::min<int64_t>(static_cast<int64_t>(num_batches), num_threads());
  if (static_cast<int64_t>(workspaces_.size()) < workers) {
    workspaces_.resize(static_cast<size_t>(workers));
  }
  std::atomic<size_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (size_t batch = next++; batch < num_batches; batch = next++) {
        encode_batch(ids, order, borders[batch], borders[batch + 1],
                     workspaces_[static_cast<size_t>(worker)], vectors.data());
      }
    }
  });
  return vectors;
}

}  // namespace

std::unique_ptr<TextEncoder> make_bert(const TextEncoderSource& source,
                                       std::unique_ptr<Tokenizer> tokenizer,
                                       kernels::Precision precision) {
  const BertConfig config = read_config(ConfigValues(*source.config, source.description));
  return std::make_unique<Bert>(source, config, std::move(tokenizer), precision);
}

}  // namespace quarry
