#pragma once

#include "generator/models/config_values.h"
#include "generator/models/decoder.h"

namespace quarry {

// What encoder-decoder families share beyond their decoder: the pass through the encoder, and
// attention of the decoder's rows over what it made of the source, kept in a cache or
// differentiable. A family says its encoder's layers; in run_layer() it calls attend_source().
class EncoderDecoder : public Decoder {
 public:
  void encode(const std::vector<int32_t>& source, const LoraAdapter* adapter,
              KvCache& cache) const final;

 protected:
  EncoderDecoder(CausalLmConfig config, int64_t num_encoder_layers, const DecoderLoader& loader)
      : Decoder(std::move(config), loader), num_encoder_layers_(num_encoder_layers) {}

  // The input of the encoder's first layer [S, E], its layers [S, E] -> [S, E], and what the
  // decoder sees of the last one's.
  virtual Tensor embed_source(const EncoderPass& pass) const = 0;
  virtual Tensor run_encoder_layer(int64_t number, const EncoderPass& pass, Tensor x) const = 0;
  virtual Tensor finish_source(const EncoderPass& pass, Tensor x) const = 0;
  // Keys and values that decoder layer `number` makes of the source: E -> 2 H D.
  virtual const nn::Linear& source_projection(int64_t number) const = 0;

  // Attention inside the source. qkv [S, 3 H D]  ->  [S, H D].
  Tensor attend_inside(const Tensor& qkv, const nn::AttentionHeads& heads) const;
  // Attention of decoder layer `number` over the source. q [T, H D]  ->  [T, H D].
  Tensor attend_source(const Tensor& q, const nn::AttentionHeads& heads, int64_t number,
                       const DecoderPass& pass) const;

 private:
  Tensor run_layers(const DecoderPass& pass, bool checkpoint_layers) const final;
  Tensor run_encoder(const EncoderPass& pass, bool checkpoint_layers) const;

  int64_t num_encoder_layers_;
};

// The tokens that its decoder's texts begin with: decoder_start_token_id, or `fallback`, and
// forced_bos_token_id where there is one. Throws kInvalidArgument.
std::vector<int32_t> read_decoder_prompt(const ConfigValues& values, int32_t fallback,
                                         int64_t vocab_size);

// check_config of an encoder with so many layers and heads of this size, and of the length that the
// decoder's beginning leaves.
void check_encoder(CausalLmConfig config, int64_t num_layers, int64_t head_dim,
                   const std::string& source);

}  // namespace quarry
