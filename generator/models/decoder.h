#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "generator/models/decoder_loader.h"
#include "generator/models/decoder_pass.h"
#include "generator/models/families.h"
#include "generator/models/gated_stack.h"
#include "generator/nn/attention.h"
#include "generator/nn/workspace.h"

namespace quarry {

// What every family shares of its decoder: a pass over the layers for chunks of sequences or a
// token tree, the head, gradients, adapters' slots. A family says what comes before the layers, one
// layer, and what comes after them, in functions of nn/ that are differentiable.
class Decoder : public CausalLm {
 public:
  const CausalLmConfig& config() const final { return config_; }
  const std::vector<LinearSlot>& linear_slots() const final { return modules_->slots; }
  const std::vector<TensorSlot>& tensor_slots() const final { return modules_->tensor_slots; }
  std::vector<float> tensor_values(const std::string& name) const final;
  std::unique_ptr<KvCache> make_cache() const final;
  void forward_into(const std::vector<SequenceChunk>& chunks,
                    std::vector<float>& logits) const final;
  using CausalLm::target_losses;
  std::vector<float> target_losses(const TokenTree& tree, const LoraAdapter* adapter,
                                   GradientOptions::Compute compute) const final;
  std::vector<float> accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                          const GradientOptions& options,
                                          LoraGradients& gradients) const final;

  // What it is made of, where that is all there is to it. Borrowed from the model.
  virtual std::optional<GatedStack> gated_stack() const { return std::nullopt; }
  const DecoderModules& modules() const { return *modules_; }

 protected:
  using Tensor = nn::Tensor;
  using Spans = std::vector<nn::AdapterSpan>;

  Decoder(CausalLmConfig config, const DecoderLoader& loader)
      : config_(std::move(config)), modules_(loader.modules()) {}

  // The input of the first layer [T, E]. The token embedding, unless a family does more.
  virtual Tensor embed(const DecoderPass& pass) const;
  // x [T, E] -> [T, E]; the last layer returns the logit rows only.
  virtual Tensor run_layer(int64_t number, const DecoderPass& pass, Tensor x) const = 0;
  // The states of the logit rows as the head sees them.
  virtual Tensor run_layers(const DecoderPass& pass, bool checkpoint_layers) const;
  // What the head sees of the last layer's rows; they run with pass.logit_adapters.
  virtual Tensor finish(const DecoderPass& pass, Tensor x) const = 0;

  Tensor embed_tokens(const DecoderPass& pass) const {
    return embed_tokens(pass.tokens, pass.adapters);
  }
  Tensor embed_tokens(const std::vector<int32_t>& tokens, const Spans& adapters) const;
  // Causal attention of layer `number`. qkv [T, (H + 2 K) D]  ->  [T, H D].
  Tensor attend(const Tensor& qkv, const nn::AttentionHeads& heads, int64_t number,
                const DecoderPass& pass) const;
  // To be called after attend(): in the last layer keeps the logit rows of the attention's result h
  // and of the residual x. Returns the adapters of the rows that go on.
  const Spans& keep_logit_rows(int64_t number, const DecoderPass& pass, Tensor& h, Tensor& x) const;

  const CausalLmConfig config_;
  mutable nn::Workspace workspace_;  // scratch of the one thread that runs forward()

 private:
  // Has passes over trees, with gradients or without, round alike while it lives.
  nn::ActivationBitsScope rounding_of(GradientOptions::Compute compute) const;
  // Logits of x [R, width], whose rows run with `adapters` or null.
  void run_head(const Tensor& x, const std::vector<const LoraAdapter*>& adapters,
                std::vector<float>& logits) const;
  const kernels::PackedMatrix& head_of(const LoraAdapter* adapter) const;

  std::shared_ptr<const DecoderModules> modules_;
};

// Of a plan, which may be just that.
inline const CausalLmConfig& config_of(const CausalLmConfig& config) { return config; }
template <typename Plan>
const CausalLmConfig& config_of(const Plan& plan) {
  return plan.config;
}

// The row of the registry for a family whose file has
//   Plan read_plan(const CausalLmSource& source)   what it reads of the configuration
//   ModelLayout make_layout(const CausalLmSource& source, const Plan& plan)
//   Model(const Plan& plan, DecoderLoader& load)
template <typename Model, auto read_plan, auto make_layout>
CausalLmFamily decoder_family(const char* gguf_architecture, const char* hf_class,
                              OrderedJson (*config_from_gguf)(const GgufFile& file)) {
  CausalLmFamily family;
  family.gguf_architecture = gguf_architecture;
  family.hf_class = hf_class;
  family.make = [](const CausalLmSource& source,
                   kernels::Precision precision) -> std::unique_ptr<CausalLm> {
    const auto plan = read_plan(source);
    const ModelLayout layout = make_layout(source, plan);
    DecoderLoader load(source, layout, precision);
    return std::make_unique<Model>(plan, load);
  };
  family.config = [](const CausalLmSource& source) { return config_of(read_plan(source)); };
  family.layout = [](const CausalLmSource& source) {
    return make_layout(source, read_plan(source));
  };
  family.config_from_gguf = config_from_gguf;
  return family;
}

}  // namespace quarry
