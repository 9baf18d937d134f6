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
#include "generator/nn/autograd.h"
#include "generator/nn/embedding.h"
#include "generator/nn/functional.h"
#include "generator/nn/linear.h"
#include "generator/nn/load.h"
#include "generator/nn/lora.h"

namespace quarry {
namespace {

using nn::Tensor;

// Rows that one pass through the layers holds: enough to use every weight many times, few enough
// for the activations to stay in the cache.
constexpr int64_t kRowsPerBatch = 512;

constexpr const char* kPooler = "pooler.dense";

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

std::string layer_path(int64_t number) { return concat("encoder.layer.", number, "."); }

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

// `path`: of the layer in the bare model; `root` stands before it in the file.
BertLayer load_layer(const TensorSource& source, const BertConfig& config, const std::string& root,
                     const std::string& path, kernels::Precision precision) {
  const std::string prefix = root + path;
  const auto project = [&](const std::string& name, int64_t in, int64_t out) {
    nn::Projection projection;
    projection.path = path + name;
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

std::vector<CausalLm::LinearSlot> make_slots(const BertConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  std::vector<CausalLm::LinearSlot> slots;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string path = layer_path(layer);
    for (const char* part : {"query", "key", "value"}) {
      slots.push_back({path + "attention.self." + part, hidden, hidden});
    }
    slots.push_back({path + "attention.output.dense", hidden, hidden});
    slots.push_back({path + "intermediate.dense", hidden, inner});
    slots.push_back({path + "output.dense", inner, hidden});
  }
  // Vectors do not pass through the pooler, but "all-linear" of PEFT adapts it too.
  slots.push_back({kPooler, hidden, hidden});
  return slots;
}

// Texts one after the other: text i is rows [starts[i], starts[i + 1]).
struct TextBatch {
  std::vector<int32_t> ids;        // [T]
  std::vector<int32_t> positions;  // [T]
  std::vector<int64_t> starts = {0};

  void add(const std::vector<int32_t>& text) {
    ids.insert(ids.end(), text.begin(), text.end());
    for (size_t t = 0; t < text.size(); ++t) positions.push_back(static_cast<int32_t>(t));
    starts.push_back(num_rows());
  }
  int64_t num_rows() const { return static_cast<int64_t>(ids.size()); }
};

// 1 / |x|, or 0 for a vector of zeros.
float inverse_length(const float* x, int64_t width) {
  double squares = 0.0;
  for (int64_t i = 0; i < width; ++i) {
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return squares > 0.0 ? static_cast<float>(1.0 / std::sqrt(squares)) : 0.0f;
}

class Bert final : public TextEncoder {
 public:
  Bert(const TextEncoderSource& source, const BertConfig& config,
       std::unique_ptr<Tokenizer> tokenizer, kernels::Precision precision);

  int64_t dim() const override { return config_.hidden_size; }
  int64_t max_tokens() const override { return max_tokens_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    return encode(nullptr, texts);
  }
  const std::vector<CausalLm::LinearSlot>& linear_slots() const override { return slots_; }
  std::vector<float> encode_with(const LoraAdapter& adapter,
                                 const std::vector<std::string>& texts) const override {
    return encode(&adapter, texts);
  }
  void accumulate_gradients(const LoraAdapter& adapter, const std::vector<std::string>& texts,
                            const float* vector_gradients, LoraGradients& gradients) const override;

 private:
  std::vector<float> encode(const LoraAdapter* adapter,
                            const std::vector<std::string>& texts) const;
  std::vector<std::vector<int32_t>> tokenize(const std::vector<std::string>& texts) const;
  // Token vectors [T, E].
  Tensor forward(const TextBatch& batch, const LoraAdapter* adapter, LoraGradients* gradients,
                 nn::Workspace& workspace) const;
  // Token vectors of one text [num_rows, E] -> unit vector [E].
  void pool(const float* rows, int64_t num_rows, float* destination) const;
  // Given the gradient of that unit vector, the gradient of the token vectors.
  void pool_backward(const float* rows, int64_t num_rows, const float* gradient,
                     float* row_gradients) const;

  BertConfig config_;
  std::vector<CausalLm::LinearSlot> slots_;
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
    layers_.push_back(load_layer(tensors, config_, root, layer_path(number), precision));
  }
  slots_ = make_slots(config_);
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

Tensor Bert::forward(const TextBatch& batch, const LoraAdapter* adapter, LoraGradients* gradients,
                     nn::Workspace& workspace) const {
  const float epsilon = config_.norm_epsilon;
  const nn::AttentionHeads heads{config_.num_heads, config_.num_heads,
                                 config_.hidden_size / config_.num_heads};
  std::vector<nn::AdapterSpan> spans;
  if (adapter != nullptr) spans.push_back({0, batch.num_rows(), adapter, gradients});
  Tensor x = word_embedding_->forward(batch.ids, workspace);
  x = nn::add_row(x, token_type_, workspace);
  x = nn::add_layer_norm(x, position_embedding_->forward(batch.positions, workspace),
                         embedding_norm_weight_, embedding_norm_bias_, epsilon, workspace);
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

// The sum of the token vectors, or the first one: a mean has the direction of the sum.
void Bert::pool(const float* rows, int64_t num_rows, float* destination) const {
  const int64_t width = config_.hidden_size;
  std::copy(rows, rows + width, destination);
  if (pooling_ == Pooling::kMean) {
    for (int64_t row = 1; row < num_rows; ++row) {
      for (int64_t i = 0; i < width; ++i) destination[i] += rows[row * width + i];
    }
  }
  const float scale = inverse_length(destination, width);
  for (int64_t i = 0; i < width; ++i) destination[i] *= scale;
}

// For v = s / |s|:  ds = (g - v <v, g>) / |s|, which every row of a sum gets.
void Bert::pool_backward(const float* rows, int64_t num_rows, const float* gradient,
                         float* row_gradients) const {
  const int64_t width = config_.hidden_size;
  std::vector<float> sum(rows, rows + width);
  if (pooling_ == Pooling::kMean) {
    for (int64_t row = 1; row < num_rows; ++row) {
      for (int64_t i = 0; i < width; ++i) sum[static_cast<size_t>(i)] += rows[row * width + i];
    }
  }
  const float scale = inverse_length(sum.data(), width);
  double along = 0.0;
  for (int64_t i = 0; i < width; ++i) {
    along += double{sum[static_cast<size_t>(i)]} * double{scale} * double{gradient[i]};
  }
  const int64_t touched = pooling_ == Pooling::kMean ? num_rows : 1;
  std::fill(row_gradients + touched * width, row_gradients + num_rows * width, 0.0f);
  for (int64_t i = 0; i < width; ++i) {
    const double v = double{sum[static_cast<size_t>(i)]} * double{scale};
    const auto value = static_cast<float>((double{gradient[i]} - v * along) * double{scale});
    for (int64_t row = 0; row < touched; ++row) row_gradients[row * width + i] = value;
  }
}

std::vector<float> Bert::encode(const LoraAdapter* adapter,
                                const std::vector<std::string>& texts) const {
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
        TextBatch rows;
        for (size_t i = borders[batch]; i < borders[batch + 1]; ++i) rows.add(ids[order[i]]);
        const at::NoGradGuard no_grad;
        const Tensor tokens =
            forward(rows, adapter, nullptr, workspaces_[static_cast<size_t>(worker)]);
        for (size_t i = borders[batch]; i < borders[batch + 1]; ++i) {
          const int64_t start = rows.starts[i - borders[batch]];
          pool(nn::row_data(tokens, start), rows.starts[i - borders[batch] + 1] - start,
               vectors.data() + order[i] * static_cast<size_t>(dim()));
        }
      }
    }
  });
  return vectors;
}

void Bert::accumulate_gradients(const LoraAdapter& adapter, const std::vector<std::string>& texts,
                                const float* vector_gradients, LoraGradients& gradients) const {
  const std::vector<std::vector<int32_t>> ids = tokenize(texts);
  if (workspaces_.empty()) workspaces_.resize(1);
  nn::Workspace& workspace = workspaces_.front();
  const at::AutoGradMode with_gradients(true);
  for (size_t first = 0; first < texts.size();) {
    TextBatch batch;
    size_t last = first;
    do {
      batch.add(ids[last++]);
    } while (last < texts.size() &&
             batch.num_rows() + static_cast<int64_t>(ids[last].size()) <= kRowsPerBatch);
    const Tensor tokens = forward(batch, &adapter, &gradients, workspace);
    Tensor gradient = workspace.empty(tokens.size(0), tokens.size(1));
    for (size_t i = first; i < last; ++i) {
      const int64_t start = batch.starts[i - first];
      pool_backward(nn::row_data(tokens, start), batch.starts[i - first + 1] - start,
                    vector_gradients + i * static_cast<size_t>(dim()),
                    nn::mutable_row_data(gradient, start));
    }
    if (tokens.requires_grad()) nn::run_backward(tokens, gradient);
    first = last;
  }
}

}  // namespace

std::unique_ptr<TextEncoder> make_bert(const TextEncoderSource& source,
                                       std::unique_ptr<Tokenizer> tokenizer,
                                       kernels::Precision precision) {
  const BertConfig config = read_config(ConfigValues(*source.config, source.description));
  return std::make_unique<Bert>(source, config, std::move(tokenizer), precision);
}

}  // namespace quarry
