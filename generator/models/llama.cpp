// The llama family (Touvron et al. 2023, arXiv:2302.13971): pre-norm decoder with RMSNorm, rotary
// positions, grouped-query attention and SwiGLU.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "data/core/error.h"
#include "generator/models/families.h"
#include "generator/models/llama_plan.h"
#include "generator/nn/attention.h"
#include "generator/nn/autograd.h"
#include "generator/nn/cross_entropy.h"
#include "generator/nn/embedding.h"
#include "generator/nn/functional.h"
#include "generator/nn/linear.h"
#include "generator/nn/load.h"
#include "generator/nn/pack_weight.h"
#include "generator/nn/rms_norm.h"
#include "generator/nn/rope_table.h"

namespace quarry {
namespace {

using nn::Tensor;

constexpr const char* kHeadWeight = "lm_head.weight";

struct LlamaLayer {
  nn::RmsNorm attention_norm;  // [E]
  nn::Linear qkv;              // E -> (H + 2 K) D
  nn::Linear o;                // H D -> E
  nn::RmsNorm mlp_norm;        // [E]
  nn::Linear gate_up;          // E -> 2 F
  nn::Linear down;             // F -> E
};

LlamaLayer load_layer(const TensorSource& source, const LlamaPlan& plan, int64_t number,
                      kernels::Precision precision) {
  const CausalLmConfig& config = plan.config;
  const std::string stored = plan.names.layer + std::to_string(number) + ".";
  const std::string path = kLlamaHuggingFaceNames.layer + std::to_string(number) + ".";
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  const auto project = [&](const char* name, const char* hf_name, int64_t in, int64_t out) {
    nn::Projection projection;
    projection.path = path + hf_name;
    projection.weight = &nn::get_checked(source, stored + name + ".weight", {out, in});
    projection.bias = nn::find_checked(source, stored + name + ".bias", {out});
    return projection;
  };
  const LlamaNames& names = plan.names;
  const LlamaNames& hf = kLlamaHuggingFaceNames;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  nn::Projection q = project(names.q, hf.q, hidden, q_width);
  nn::Projection k = project(names.k, hf.k, hidden, kv_width);
  if (plan.interleaved_rope) {
    q.row_order = interleaved_rows(config.num_heads, config.head_dim);
    k.row_order = interleaved_rows(config.num_kv_heads, config.head_dim);
  }
  const nn::Projection v = project(names.v, hf.v, hidden, kv_width);
  const auto norm = [&](const char* name, const char* hf_name) {
    return nn::RmsNorm(path + hf_name, nn::load_vector(source, stored + name + ".weight", hidden),
                       static_cast<float>(config.norm_epsilon));
  };
  return {
      norm(names.attention_norm, hf.attention_norm),
      nn::Linear({q, k, v}, precision, plan.weights),
      nn::Linear({project(names.o, hf.o, q_width, hidden)}, precision, plan.weights),
      norm(names.mlp_norm, hf.mlp_norm),
      nn::Linear(
          {project(names.gate, hf.gate, hidden, inner), project(names.up, hf.up, hidden, inner)},
          precision, plan.weights),
      nn::Linear({project(names.down, hf.down, inner, hidden)}, precision, plan.weights),
  };
}

std::vector<CausalLm::LinearSlot> make_slots(const CausalLmConfig& config) {
  const LlamaNames& hf = kLlamaHuggingFaceNames;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  std::vector<CausalLm::LinearSlot> slots;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string path = hf.layer + std::to_string(layer) + ".";
    slots.push_back({path + hf.q, hidden, q_width});
    slots.push_back({path + hf.k, hidden, kv_width});
    slots.push_back({path + hf.v, hidden, kv_width});
    slots.push_back({path + hf.o, q_width, hidden});
    slots.push_back({path + hf.gate, hidden, inner});
    slots.push_back({path + hf.up, hidden, inner});
    slots.push_back({path + hf.down, inner, hidden});
  }
  return slots;
}

// The rows of one pass: of forward(), chunk after chunk, chunks of the same adapter side by side;
// or of a token tree.
struct Step {
  std::vector<int32_t> tokens;     // [T]
  std::vector<int32_t> positions;  // [T]
  std::vector<nn::SequenceSpan> sequences;
  std::vector<kernels::TreeSegment> segments;  // of a tree; sequences is empty then
  std::vector<nn::AdapterSpan> adapters;
  // Rows whose logits are asked for, ascending: what follows the last layer's attention is computed
  // for these alone.
  std::vector<int64_t> logit_rows;
  std::vector<nn::AdapterSpan> logit_adapters;  // spans of logit_rows
};

// The adapters of the rows that were selected.
std::vector<nn::AdapterSpan> select_spans(const std::vector<nn::AdapterSpan>& spans,
                                          const std::vector<int64_t>& rows) {
  std::vector<nn::AdapterSpan> selected;
  for (nn::AdapterSpan span : spans) {
    span.begin = std::lower_bound(rows.begin(), rows.end(), span.begin) - rows.begin();
    span.end = std::lower_bound(rows.begin(), rows.end(), span.end) - rows.begin();
    if (span.begin < span.end) selected.push_back(span);
  }
  return selected;
}

void check_chunk(const SequenceChunk& chunk, const CausalLmConfig& config) {
  QUARRY_CHECK(chunk.cache != nullptr && chunk.num_tokens > 0, ErrorCode::kInvalidArgument,
               "a chunk needs a cache and at least one token, got ", chunk.num_tokens);
  for (int64_t i = 0; i < chunk.num_tokens; ++i) {
    QUARRY_CHECK(chunk.tokens[i] >= 0 && chunk.tokens[i] < config.vocab_size,
                 ErrorCode::kInvalidArgument, "token ", chunk.tokens[i],
                 " is outside the vocabulary of ", config.vocab_size);
  }
}

// `output_rows`: for each row of logits that the caller expects, its place in logit_rows.
Step plan_step(const std::vector<SequenceChunk>& chunks, const CausalLmConfig& config,
               std::vector<int64_t>& output_rows) {
  for (const SequenceChunk& chunk : chunks) check_chunk(chunk, config);
  for (const SequenceChunk& chunk : chunks) chunk.cache->reserve(chunk.num_tokens);
  std::vector<size_t> order(chunks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::less<>()(chunks[a].adapter, chunks[b].adapter);
  });
  Step step;
  std::vector<int64_t> first_row(chunks.size());
  for (size_t index : order) {
    const SequenceChunk& chunk = chunks[index];
    const int64_t begin = static_cast<int64_t>(step.tokens.size());
    const int64_t end = begin + chunk.num_tokens;
    first_row[index] = begin;
    step.tokens.insert(step.tokens.end(), chunk.tokens, chunk.tokens + chunk.num_tokens);
    for (int64_t i = 0; i < chunk.num_tokens; ++i) {
      step.positions.push_back(static_cast<int32_t>(chunk.cache->length() + i));
    }
    step.sequences.push_back({begin, chunk.num_tokens, chunk.cache});
    if (chunk.adapter == nullptr) continue;
    if (!step.adapters.empty() && step.adapters.back().adapter == chunk.adapter) {
      step.adapters.back().end = end;
    } else {
      step.adapters.push_back({begin, end, chunk.adapter});
    }
  }
  std::vector<int64_t> wanted;
  for (size_t index = 0; index < chunks.size(); ++index) {
    const int64_t last = first_row[index] + chunks[index].num_tokens - 1;
    for (int64_t row = chunks[index].all_logits ? first_row[index] : last; row <= last; ++row) {
      wanted.push_back(row);
    }
  }
  step.logit_rows = wanted;
  std::sort(step.logit_rows.begin(), step.logit_rows.end());
  for (const int64_t row : wanted) {
    output_rows.push_back(std::lower_bound(step.logit_rows.begin(), step.logit_rows.end(), row) -
                          step.logit_rows.begin());
  }
  step.logit_adapters = select_spans(step.adapters, step.logit_rows);
  return step;
}

void check_tree(const TokenTree& tree, const CausalLmConfig& config) {
  const int64_t num_rows = static_cast<int64_t>(tree.tokens.size());
  QUARRY_CHECK(!tree.targets.empty(), ErrorCode::kInvalidArgument, "a token tree has no target");
  QUARRY_CHECK(tree.positions.size() == tree.tokens.size(), ErrorCode::kInvalidArgument,
               "a token tree has ", num_rows, " tokens and ", tree.positions.size(), " positions");
  const auto check_token = [&](int32_t token) {
    QUARRY_CHECK(token >= 0 && token < config.vocab_size, ErrorCode::kInvalidArgument, "token ",
                 token, " is outside the vocabulary of ", config.vocab_size);
  };
  for (const int32_t token : tree.tokens) check_token(token);
  for (const int32_t position : tree.positions) {
    QUARRY_CHECK(position >= 0 && position < config.max_seq_len, ErrorCode::kInvalidArgument,
                 "position ", position, " is outside the context of ", config.max_seq_len);
  }
  for (const TokenTree::Target& target : tree.targets) {
    check_token(target.token);
    QUARRY_CHECK(target.row >= 0 && target.row < num_rows, ErrorCode::kInvalidArgument,
                 "a target at row ", target.row, " of a tree with ", num_rows, " rows");
  }
}

Step plan_tree(const TokenTree& tree, const LoraAdapter* adapter, LoraGradients* gradients,
               const CausalLmConfig& config) {
  check_tree(tree, config);
  Step step;
  step.tokens = tree.tokens;
  step.positions = tree.positions;
  step.segments = tree.segments;
  if (adapter != nullptr) {
    step.adapters.push_back({0, static_cast<int64_t>(tree.tokens.size()), adapter, gradients});
  }
  for (const TokenTree::Target& target : tree.targets) step.logit_rows.push_back(target.row);
  std::sort(step.logit_rows.begin(), step.logit_rows.end());
  step.logit_rows.erase(std::unique(step.logit_rows.begin(), step.logit_rows.end()),
                        step.logit_rows.end());
  step.logit_adapters = select_spans(step.adapters, step.logit_rows);
  return step;
}

class Llama final : public CausalLm {
 public:
  Llama(const TensorSource& source, const LlamaPlan& plan, kernels::Precision precision);

  const CausalLmConfig& config() const override { return config_; }
  const std::vector<LinearSlot>& linear_slots() const override { return slots_; }
  const std::vector<TensorSlot>& tensor_slots() const override { return tensor_slots_; }
  std::vector<float> tensor_values(const std::string& name) const override;
  std::unique_ptr<KvCache> make_cache() const override;
  std::vector<float> forward(const std::vector<SequenceChunk>& chunks) const override;
  std::vector<float> target_losses(const TokenTree& tree,
                                   const LoraAdapter* adapter) const override;
  std::vector<float> accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                          const GradientOptions& options,
                                          LoraGradients& gradients) const override;

 private:
  // x [T, E] -> [T, E]; the last layer returns the logit rows only.
  Tensor run_layer(const LlamaLayer& layer, int64_t number, const Step& step, Tensor x) const;
  // Hidden states of the logit rows after the final norm.
  Tensor run_layers(const Step& step, bool checkpoint_layers) const;
  // Logits of x [R, E], whose rows run with `adapters` or null.
  std::vector<float> run_head(const Tensor& x,
                              const std::vector<const LoraAdapter*>& adapters) const;
  const kernels::PackedMatrix& head_of(const LoraAdapter* adapter) const;
  void list_tensors();

  CausalLmConfig config_;
  kernels::Precision precision_;
  std::vector<LinearSlot> slots_;
  std::vector<TensorSlot> tensor_slots_;
  std::map<std::string, std::function<std::vector<float>()>> tensor_values_;  // by slot
  std::shared_ptr<const kernels::PackedMatrix> head_;                         // [V, E]
  std::unique_ptr<nn::Embedding> embedding_;
  std::vector<LlamaLayer> layers_;
  std::unique_ptr<nn::RmsNorm> final_norm_;  // [E]
  // Scratch of the one thread that runs forward().
  mutable nn::RopeTable rope_;
  mutable nn::Workspace workspace_;
};

Llama::Llama(const TensorSource& source, const LlamaPlan& plan, kernels::Precision precision)
    : config_(plan.config),
      precision_(precision),
      slots_(make_slots(plan.config)),
      rope_(plan.inv_freq) {
  const std::vector<int64_t> table_shape = {config_.vocab_size, config_.hidden_size};
  const TensorView& table =
      nn::get_checked(source, plan.names.embedding + std::string(".weight"), table_shape);
  const TensorView& head =
      config_.tied_head
          ? table
          : nn::get_checked(source, plan.names.head + std::string(".weight"), table_shape);
  // 4- and 8-bit quantization leaves the head alone.
  const bool is_quantized = nn::quantized_type(plan.weights.load_in).has_value();
  head_ = nn::pack_weight(head, {}, precision, is_quantized ? LoadIn::kAsIs : plan.weights.load_in);
  const char* embedding_path = kLlamaHuggingFaceNames.embedding;
  embedding_ = config_.tied_head ? std::make_unique<nn::Embedding>(head_, embedding_path)
                                 : std::make_unique<nn::Embedding>(table, embedding_path);
  final_norm_ = std::make_unique<nn::RmsNorm>(
      kLlamaHuggingFaceNames.final_norm,
      nn::load_vector(source, plan.names.final_norm + std::string(".weight"), config_.hidden_size),
      static_cast<float>(config_.norm_epsilon));
  layers_.reserve(static_cast<size_t>(config_.num_layers));
  for (int64_t number = 0; number < config_.num_layers; ++number) {
    layers_.push_back(load_layer(source, plan, number, precision));
  }
  list_tensors();
}

void Llama::list_tensors() {
  using Use = TensorSlot::Use;
  const auto add = [this](const std::string& name, std::vector<int64_t> shape, Use use,
                          std::function<std::vector<float>()> values) {
    tensor_slots_.push_back({name, std::move(shape), use});
    tensor_values_[name] = std::move(values);
  };
  const auto add_norm = [&](const nn::RmsNorm& norm) {
    add(norm.weight_name(), {config_.hidden_size}, Use::kVector,
        [&norm] { return norm.weight_values(); });
  };
  const auto add_linear = [&](const nn::Linear& linear) {
    for (size_t i = 0; i < linear.num_projections(); ++i) {
      const int64_t width = linear.width(i);
      add(linear.path(i) + ".weight", {width, linear.in_features()}, Use::kLinear,
          [&linear, i] { return linear.weight_values(i); });
      if (!linear.has_bias(i)) continue;
      add(linear.path(i) + ".bias", {width}, Use::kVector,
          [&linear, i] { return linear.bias_values(i); });
    }
  };
  const auto table_values = [this](const std::function<void(int64_t, float*)>& decode) {
    std::vector<float> values(static_cast<size_t>(config_.vocab_size * config_.hidden_size));
    for (int64_t row = 0; row < config_.vocab_size; ++row) {
      decode(row, values.data() + row * config_.hidden_size);
    }
    return values;
  };
  const std::vector<int64_t> table_shape = {config_.vocab_size, config_.hidden_size};
  add(embedding_->weight_name(), table_shape, Use::kEmbedding, [this, table_values] {
    return table_values([this](int64_t row, float* out) { embedding_->decode(row, out); });
  });
  for (const LlamaLayer& layer : layers_) {
    add_norm(layer.attention_norm);
    add_linear(layer.qkv);
    add_linear(layer.o);
    add_norm(layer.mlp_norm);
    add_linear(layer.gate_up);
    add_linear(layer.down);
  }
  add_norm(*final_norm_);
  add(kHeadWeight, table_shape, Use::kLinear, [this, table_values] {
    return table_values([this](int64_t row, float* out) { kernels::decode_row(*head_, row, out); });
  });
}

std::vector<float> Llama::tensor_values(const std::string& name) const {
  const auto it = tensor_values_.find(name);
  QUARRY_DCHECK(it != tensor_values_.end());
  return it->second();
}

std::unique_ptr<KvCache> Llama::make_cache() const {
  const auto type = precision_ == kernels::Precision::kExact ? KvCache::ElementType::kFloat
                                                             : KvCache::ElementType::kHalf;
  return std::make_unique<KvCache>(config_.num_layers, config_.num_kv_heads * config_.head_dim,
                                   config_.max_seq_len, type);
}

Tensor Llama::run_layer(const LlamaLayer& layer, int64_t number, const Step& step, Tensor x) const {
  const nn::AttentionHeads heads{config_.num_heads, config_.num_kv_heads, config_.head_dim};

  Tensor h = layer.attention_norm.forward(x, step.adapters, workspace_);
  Tensor qkv = layer.qkv.forward(h, step.adapters, workspace_);
  qkv = rope_.apply(qkv, step.positions, heads.num_heads + heads.num_kv_heads, heads.head_dim);
  h = step.segments.empty() ? nn::cached_attention(qkv, heads, number, step.sequences, workspace_)
                            : nn::tree_attention(qkv, heads, step.segments, workspace_);
  const bool is_last = number + 1 == config_.num_layers;
  if (is_last) {
    h = nn::select_rows(h, step.logit_rows, workspace_);
    x = nn::select_rows(x, step.logit_rows, workspace_);
  }
  const std::vector<nn::AdapterSpan>& adapters = is_last ? step.logit_adapters : step.adapters;
  h = layer.o.forward(h, adapters, workspace_);
  x = nn::add(x, h, workspace_);

  h = layer.mlp_norm.forward(x, adapters, workspace_);
  h = layer.gate_up.forward(h, adapters, workspace_);
  h = nn::swiglu(h, workspace_);
  h = layer.down.forward(h, adapters, workspace_);
  return nn::add(x, h, workspace_);
}

Tensor Llama::run_layers(const Step& step, bool checkpoint_layers) const {
  Tensor x = embedding_->forward(step.tokens, step.adapters, workspace_);
  for (size_t number = 0; number < layers_.size(); ++number) {
    const auto run = [this, number, &step](Tensor input) {
      return run_layer(layers_[number], static_cast<int64_t>(number), step, std::move(input));
    };
    x = checkpoint_layers ? nn::checkpoint(run, x) : run(std::move(x));
  }
  return final_norm_->forward(x, step.logit_adapters, workspace_);
}

std::vector<float> Llama::forward(const std::vector<SequenceChunk>& chunks) const {
  if (chunks.empty()) return {};
  const at::NoGradGuard no_grad;
  std::vector<int64_t> output_rows;
  const Step step = plan_step(chunks, config_, output_rows);
  Tensor x = run_layers(step, false);
  for (const nn::SequenceSpan& sequence : step.sequences) {
    sequence.cache->advance(sequence.num_tokens);
  }
  x = nn::select_rows(x, output_rows, workspace_);
  std::vector<const LoraAdapter*> adapters;  // of each row
  for (const SequenceChunk& chunk : chunks) {
    adapters.insert(adapters.end(), static_cast<size_t>(chunk.all_logits ? chunk.num_tokens : 1),
                    chunk.adapter);
  }
  return run_head(x, adapters);
}

const kernels::PackedMatrix& Llama::head_of(const LoraAdapter* adapter) const {
  const FullTensor* own = adapter == nullptr ? nullptr : adapter->find_full(kHeadWeight);
  return own == nullptr ? *head_ : *own->packed;
}

std::vector<float> Llama::run_head(const Tensor& x,
                                   const std::vector<const LoraAdapter*>& adapters) const {
  const int64_t num_rows = x.size(0);
  std::vector<float> logits(static_cast<size_t>(num_rows * config_.vocab_size));
  for (int64_t first = 0; first < num_rows;) {
    const kernels::PackedMatrix& head = head_of(adapters[static_cast<size_t>(first)]);
    int64_t last = first + 1;
    while (last < num_rows && &head_of(adapters[static_cast<size_t>(last)]) == &head) ++last;
    kernels::matmul(head, nn::row_data(x, first), last - first, config_.hidden_size,
                    logits.data() + first * config_.vocab_size, config_.vocab_size);
    first = last;
  }
  return logits;
}

std::vector<float> Llama::target_losses(const TokenTree& tree, const LoraAdapter* adapter) const {
  const at::NoGradGuard no_grad;
  const Step step = plan_tree(tree, adapter, nullptr, config_);
  workspace_.begin_pass(static_cast<int64_t>(step.tokens.size()));
  const Tensor hidden = run_layers(step, false);
  return nn::cross_entropy(hidden, head_of(adapter), step.logit_rows, tree.targets, {});
}

std::vector<float> Llama::accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                               const GradientOptions& options,
                                               LoraGradients& gradients) const {
  const bool exact = options.compute == GradientOptions::Compute::kFloat32;
  workspace_.set_saved_precision(exact ? nn::SavedPrecision::kFloat32
                                       : nn::SavedPrecision::kBFloat16);
  const bool rounds = !exact && precision_ == kernels::Precision::kFast;
  const nn::ActivationBitsScope bits(
      workspace_, rounds ? kernels::ActivationBits::k8 : kernels::ActivationBits::k16);
  const Step step = plan_tree(tree, &adapter, &gradients, config_);
  workspace_.begin_pass(static_cast<int64_t>(step.tokens.size()));
  const at::AutoGradMode with_gradients(true);
  const Tensor hidden = run_layers(step, options.checkpoint_layers);
  Tensor gradient = workspace_.empty(hidden.size(0), hidden.size(1));
  nn::CrossEntropyGradients targets;
  targets.hidden = &gradient;
  if (adapter.find_full(kHeadWeight) != nullptr) targets.head = &gradients.full_at(kHeadWeight);
  std::vector<float> losses =
      nn::cross_entropy(hidden, head_of(&adapter), step.logit_rows, tree.targets, targets);
  if (hidden.requires_grad()) nn::run_backward(hidden, gradient);
  return losses;
}

}  // namespace

std::unique_ptr<CausalLm> make_llama(const CausalLmSource& source, kernels::Precision precision) {
  const LlamaPlan plan = plan_llama(source);
  return std::make_unique<Llama>(*source.tensors, plan, precision);
}

}  // namespace quarry
