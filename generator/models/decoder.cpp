#include "generator/models/decoder.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "data/core/error.h"
#include "generator/kernels/elementwise.h"
#include "generator/nn/autograd.h"
#include "generator/nn/cross_entropy.h"
#include "generator/nn/functional.h"
#include "generator/nn/kv_cache.h"

namespace quarry {

using nn::Tensor;

std::vector<float> Decoder::tensor_values(const std::string& name) const {
  const auto it = modules_->tensor_values.find(name);
  QUARRY_DCHECK(it != modules_->tensor_values.end());
  return it->second();
}

std::unique_ptr<KvCache> Decoder::make_cache() const {
  // Values of T5 can pass what a half holds. Texts of an encoder-decoder are short.
  const bool exact = modules_->precision == kernels::Precision::kExact || config_.has_encoder();
  const bool rounds = modules_->precision == kernels::Precision::kFast8;
  const auto type = exact    ? KvCache::ElementType::kFloat
                    : rounds ? KvCache::ElementType::kBFloat16
                             : KvCache::ElementType::kHalf;
  return std::make_unique<KvCache>(config_.num_layers, config_.num_kv_heads, config_.head_dim,
                                   config_.max_seq_len, type);
}

Tensor Decoder::embed_tokens(const std::vector<int32_t>& tokens, const Spans& adapters) const {
  return modules_->embeddings.front().forward(tokens, adapters, workspace_);
}

Tensor Decoder::embed(const DecoderPass& pass) const { return embed_tokens(pass); }

Tensor Decoder::attend(const Tensor& qkv, const nn::AttentionHeads& heads, int64_t number,
                       const DecoderPass& pass) const {
  return pass.segments.empty()
             ? nn::cached_attention(qkv, heads, number, pass.sequences, workspace_)
             : nn::tree_attention(qkv, heads, pass.segments, workspace_);
}

const Decoder::Spans& Decoder::keep_logit_rows(int64_t number, const DecoderPass& pass, Tensor& h,
                                               Tensor& x) const {
  if (number + 1 < config_.num_layers) return pass.adapters;
  h = nn::select_rows(h, pass.logit_rows, workspace_);
  x = nn::select_rows(x, pass.logit_rows, workspace_);
  return pass.logit_adapters;
}

Tensor Decoder::run_layers(const DecoderPass& pass, bool checkpoint_layers) const {
  Tensor x = embed(pass);
  for (int64_t number = 0; number < config_.num_layers; ++number) {
    const auto run = [this, number, &pass](const std::vector<Tensor>& inputs) {
      return run_layer(number, pass, inputs[0]);
    };
    x = checkpoint_layers ? nn::checkpoint(run, {x}) : run_layer(number, pass, std::move(x));
  }
  return finish(pass, std::move(x));
}

void Decoder::forward_into(const std::vector<SequenceChunk>& chunks,
                           std::vector<float>& logits) const {
  if (chunks.empty()) return logits.clear();
  const at::NoGradGuard no_grad;
  std::vector<int64_t> output_rows;
  const DecoderPass pass = plan_chunks(chunks, config_, output_rows);
  for (const nn::SequenceSpan& sequence : pass.sequences) {
    QUARRY_CHECK(sequence.cache->page_memory() == nullptr, ErrorCode::kInvalidArgument,
                 "the cache of a model on a GPU, given to one on the CPU");
  }
  Tensor x = run_layers(pass, false);
  for (const nn::SequenceSpan& sequence : pass.sequences) {
    sequence.cache->advance(sequence.num_tokens);
  }
  x = nn::select_rows(x, output_rows, workspace_);
  std::vector<const LoraAdapter*> adapters;  // of each row
  for (const SequenceChunk& chunk : chunks) {
    adapters.insert(adapters.end(), static_cast<size_t>(chunk.all_logits ? chunk.num_tokens : 1),
                    chunk.adapter);
  }
  run_head(x, adapters, logits);
}

const kernels::PackedMatrix& Decoder::head_of(const LoraAdapter* adapter) const {
  const FullTensor* own = adapter == nullptr ? nullptr : adapter->find_full(modules_->head_weight);
  return own == nullptr ? *modules_->head : *own->packed;
}

void Decoder::run_head(const Tensor& x, const std::vector<const LoraAdapter*>& adapters,
                       std::vector<float>& logits) const {
  const int64_t num_rows = x.size(0);
  logits.resize(static_cast<size_t>(num_rows * config_.vocab_size));
  for (int64_t first = 0; first < num_rows;) {
    const kernels::PackedMatrix& head = head_of(adapters[static_cast<size_t>(first)]);
    int64_t last = first + 1;
    while (last < num_rows && &head_of(adapters[static_cast<size_t>(last)]) == &head) ++last;
    kernels::matmul(head, nn::row_data(x, first), last - first, x.size(1),
                    logits.data() + first * config_.vocab_size, config_.vocab_size);
    first = last;
  }
  if (modules_->head_bias.empty()) return;
  for (int64_t row = 0; row < num_rows; ++row) {
    float* values = logits.data() + row * config_.vocab_size;
    kernels::add(values, modules_->head_bias.data(), config_.vocab_size, values);
  }
}

nn::ActivationBitsScope Decoder::rounding_of(GradientOptions::Compute compute) const {
  const bool exact = compute == GradientOptions::Compute::kFloat32;
  workspace_.set_saved_precision(exact ? nn::SavedPrecision::kFloat32
                                       : nn::SavedPrecision::kBFloat16);
  const bool rounds = !exact && modules_->precision != kernels::Precision::kExact;
  return nn::ActivationBitsScope(
      workspace_, rounds ? kernels::ActivationBits::k8 : kernels::ActivationBits::k16);
}

std::vector<float> Decoder::target_losses(const TokenTree& tree, const LoraAdapter* adapter,
                                          GradientOptions::Compute compute) const {
  const at::NoGradGuard no_grad;
  const nn::ActivationBitsScope rounding = rounding_of(compute);
  const DecoderPass pass = plan_tree(tree, adapter, nullptr, config_);
  workspace_.begin_pass(
      static_cast<int64_t>(std::max(pass.tokens.size(), pass.source.tokens.size())));
  const Tensor hidden = run_layers(pass, false);
  return nn::cross_entropy(hidden, head_of(adapter), modules_->head_bias, pass.logit_rows,
                           tree.targets, {});
}

std::vector<float> Decoder::accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                                 const GradientOptions& options,
                                                 LoraGradients& gradients) const {
  const nn::ActivationBitsScope rounding = rounding_of(options.compute);
  const DecoderPass pass = plan_tree(tree, &adapter, &gradients, config_);
  workspace_.begin_pass(
      static_cast<int64_t>(std::max(pass.tokens.size(), pass.source.tokens.size())));
  const at::AutoGradMode with_gradients(true);
  const Tensor hidden = run_layers(pass, options.checkpoint_layers);
  Tensor gradient = workspace_.empty(hidden.size(0), hidden.size(1));
  nn::CrossEntropyGradients targets;
  targets.hidden = &gradient;
  if (adapter.find_full(modules_->head_weight) != nullptr)
    targets.head = &gradients.full_at(modules_->head_weight);
  std::vector<float> losses = nn::cross_entropy(hidden, head_of(&adapter), modules_->head_bias,
                                                pass.logit_rows, tree.targets, targets);
  if (hidden.requires_grad()) nn::run_backward(hidden, gradient);
  return losses;
}

}  // namespace quarry
