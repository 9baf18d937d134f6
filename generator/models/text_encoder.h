#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// A bidirectional encoder that turns a text into one vector of length 1 (sentence-transformers
// folders: transformer + pooling + normalize), or of any length where the family is trained for
// inner products (DPR). Immutable after loading; encode() by one thread at a time.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  virtual int64_t dim() const = 0;
  // Whether every vector has length 1.
  virtual bool unit_length() const { return true; }
  // Longest input in tokens, template tokens included; longer inputs are cut there.
  virtual int64_t max_tokens() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // [texts.size(), dim] row-major. Batches by length inside; the vector of a text does
  // not depend on the others (on a GPU but for its last bits).
  virtual std::vector<float> encode(const std::vector<std::string>& texts) const = 0;

  // Has encode() and encode_with() run on the first CUDA device from now on. Before the first of
  // them. Throws kInvalidArgument for a family that cannot, and as make_cuda_bert(): all is as it
  // was then.
  virtual void use_cuda();

  // Every Linear that an adapter can target, by the path that it has in Hugging Face's bare model:
  // "encoder.layer.0.attention.self.query"; DPR's begin with "question_encoder.bert_model.". None
  // for an encoder that takes no adapter, of which the next two throw kInvalidArgument.
  virtual const std::vector<CausalLm::LinearSlot>& linear_slots() const;
  // encode() with an adapter made for linear_slots().
  virtual std::vector<float> encode_with(const LoraAdapter& adapter,
                                         const std::vector<std::string>& texts) const;
  // Adds the gradient of sum_i <vector_gradients[i], encode_with(adapter, texts)[i]> with respect
  // to the adapter's matrices to `gradients`, which were made for it. vector_gradients
  // [texts.size(), dim]. Only LoRA pairs learn, no whole parameters.
  virtual void accumulate_gradients(const LoraAdapter& adapter,
                                    const std::vector<std::string>& texts,
                                    const float* vector_gradients, LoraGradients& gradients) const;
};

struct LoadedEncoder {
  std::string name;
  std::string path;
  std::string content_hash;
  std::unique_ptr<TextEncoder> model;
  Device device = Device::kCpu;  // never kAuto
  std::string why_cpu;           // as LoadedGenerator's
};

// `model` as in load_generator. Throws likewise.
LoadedEncoder load_text_encoder(const std::string& model, kernels::Precision precision,
                                Device device = Device::kCpu);

}  // namespace quarry
