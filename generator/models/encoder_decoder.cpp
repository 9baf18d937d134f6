#include "generator/models/encoder_decoder.h"

#include <ATen/core/grad_mode.h>

#include "data/core/error.h"
#include "generator/models/decoder_config.h"
#include "generator/nn/autograd.h"

namespace quarry {

using nn::Tensor;

Tensor EncoderDecoder::attend_inside(const Tensor& qkv, const nn::AttentionHeads& heads) const {
  return nn::bidirectional_attention(qkv, heads, {0, qkv.size(0)}, workspace_);
}

Tensor EncoderDecoder::attend_source(const Tensor& q, const nn::AttentionHeads& heads,
                                     int64_t number, const DecoderPass& pass) const {
  if (pass.segments.empty()) {
    return nn::cached_cross_attention(q, heads, number, pass.sequences, workspace_);
  }
  const Tensor kv =
      source_projection(number).forward(pass.source.states, pass.source.adapters, workspace_);
  return nn::cross_attention(q, kv, heads, workspace_);
}

Tensor EncoderDecoder::run_encoder(const EncoderPass& pass, bool checkpoint_layers) const {
  Tensor x = embed_source(pass);
  for (int64_t number = 0; number < num_encoder_layers_; ++number) {
    const auto run = [this, number, &pass](const std::vector<Tensor>& inputs) {
      return run_encoder_layer(number, pass, inputs[0]);
    };
    x = checkpoint_layers ? nn::checkpoint(run, {x})
                          : run_encoder_layer(number, pass, std::move(x));
  }
  return finish_source(pass, std::move(x));
}

void EncoderDecoder::encode(const std::vector<int32_t>& source, const LoraAdapter* adapter,
                            KvCache& cache) const {
  const at::NoGradGuard no_grad;
  const EncoderPass pass = plan_source(source, adapter, nullptr, config_);
  const Tensor states = run_encoder(pass, false);
  auto memory = std::make_shared<EncoderMemory>();
  memory->num_rows = states.size(0);
  for (int64_t number = 0; number < config_.num_layers; ++number) {
    const Tensor kv = source_projection(number).forward(states, pass.adapters, workspace_);
    memory->layers.emplace_back(kv.data_ptr<float>(), kv.data_ptr<float>() + kv.numel());
  }
  cache.set_memory(std::move(memory));
}

Tensor EncoderDecoder::run_layers(const DecoderPass& pass, bool checkpoint_layers) const {
  if (pass.segments.empty()) return Decoder::run_layers(pass, false);
  DecoderPass with_states = pass;
  with_states.source.states = run_encoder(pass.source, checkpoint_layers);
  if (!checkpoint_layers) return Decoder::run_layers(with_states, false);
  Tensor x = embed(pass);
  for (int64_t number = 0; number < config_.num_layers; ++number) {
    const auto run = [this, number, &pass](const std::vector<Tensor>& inputs) {
      DecoderPass again = pass;
      again.source.states = inputs[1];
      return run_layer(number, again, inputs[0]);
    };
    x = nn::checkpoint(run, {x, with_states.source.states});
  }
  return finish(pass, std::move(x));
}

void check_encoder(CausalLmConfig config, int64_t num_layers, int64_t head_dim,
                   const std::string& source) {
  config.num_layers = num_layers;
  config.head_dim = head_dim;
  check_config(config, source);
  QUARRY_CHECK(config.max_seq_len > static_cast<int64_t>(config.decoder_prompt.size()),
               ErrorCode::kInvalidArgument, source, ": a context of ", config.max_seq_len,
               " tokens, which the ", config.decoder_prompt.size(),
               " that the decoder begins with use up");
}

std::vector<int32_t> read_decoder_prompt(const ConfigValues& values, int32_t fallback,
                                         int64_t vocab_size) {
  std::vector<int32_t> prompt = {values.token_or("decoder_start_token_id", fallback)};
  if (values.has("forced_bos_token_id"))
    prompt.push_back(values.token_or("forced_bos_token_id", 0));
  for (const int32_t token : prompt) {
    QUARRY_CHECK(token < vocab_size, ErrorCode::kInvalidArgument, values.source(),
                 ": the decoder begins with token ", token, ", outside the vocabulary of ",
                 vocab_size);
  }
  return prompt;
}

}  // namespace quarry
