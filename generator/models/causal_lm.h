#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/text/chat_template.h"
#include "data/text/tokenizer.h"
#include "generator/kernels/matmul.h"
#include "generator/kernels/tree_attention.h"
#include "generator/quant/weight_options.h"

namespace quarry {

class LoraAdapter;    // generator/nn/lora.h
class LoraGradients;  // generator/nn/lora_training.h
class KvCache;        // generator/nn/kv_cache.h

// What every family tells about itself; of an encoder-decoder the sizes are the decoder's.
struct CausalLmConfig {
  std::string architecture;  // "llama"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_seq_len = 0;
  double rope_theta = 10000.0;
  double norm_epsilon = 1e-5;
  bool tied_head = false;  // the output head is the token embedding
  // Of an encoder-decoder: what every text of its decoder begins with, a start token and perhaps
  // one that always follows. Empty: decoder-only.
  std::vector<int32_t> decoder_prompt;

  bool has_encoder() const { return !decoder_prompt.empty(); }
  // A prompt shares the context with the answer, unless an encoder reads it.
  int64_t max_prompt_tokens() const { return has_encoder() ? max_seq_len : max_seq_len - 1; }
};

// Rows of one engine step: `tokens` of one sequence, to be appended to its cache.
struct SequenceChunk {
  const int32_t* tokens = nullptr;
  int64_t num_tokens = 0;
  KvCache* cache = nullptr;              // borrowed; grows by num_tokens
  const LoraAdapter* adapter = nullptr;  // borrowed; null: the base model
  bool all_logits = false;               // logits of every row instead of the last only
};

// Token sequences to learn from. Those that begin alike share the rows of their beginning: a path
// from a root segment to a leaf is one sequence, and computes exactly what it would alone.
struct TokenTree {
  // A token that the model should predict after `row`.
  struct Target {
    int64_t row = 0;
    int32_t token = 0;
    float weight = 1.0f;  // of its negative log-likelihood in the loss
  };
  std::vector<int32_t> tokens;                 // [T]
  std::vector<int32_t> positions;              // [T], counted along each path from 0
  std::vector<kernels::TreeSegment> segments;  // cover [0, T)
  std::vector<Target> targets;                 // at least one
  // Of an encoder-decoder: what the encoder reads; every row sees all of it.
  std::vector<int32_t> source;
};

// What a gradient step keeps of the forward pass.
struct GradientOptions {
  enum class Compute {
    kFloat32,
    // Activations are kept in bfloat16, half the memory, and meet the frozen weights as 8-bit
    // integers where that is faster (kernels::ActivationBits).
    kBFloat16,
  };
  Compute compute = Compute::kBFloat16;
  bool checkpoint_layers = false;  // keep the input of each layer only: a third more time
};

// A language model with frozen weights, decoder-only or with an encoder for the prompt. Immutable
// after loading; forward() and encode() may be called by one thread at a time, with any caches.
class CausalLm {
 public:
  virtual ~CausalLm() = default;
  virtual const CausalLmConfig& config() const = 0;
  virtual std::unique_ptr<KvCache> make_cache() const = 0;

  // Of an encoder-decoder: reads `source` and leaves in the cache what its decoder sees of it from
  // then on (KvCache::memory). Throws kInvalidArgument: a model without an encoder, no token, more
  // than max_seq_len, a token out of range.
  virtual void encode(const std::vector<int32_t>& source, const LoraAdapter* adapter,
                      KvCache& cache) const;

  // Runs all chunks as one batch. `logits` become one row of vocab_size for each chunk (or for each
  // of its tokens when all_logits), in order; given again, it keeps its memory. A sequence's logits
  // do not depend on what else is in the batch, nor on how its prompt was cut into chunks.
  // Throws kInvalidArgument when a cache would pass max_seq_len, a token is out of range or a cache
  // lacks the memory of an encoder that the model has, or where it is another model's. On a GPU the
  // last bits depend on more (cuda_decoder.h).
  virtual void forward_into(const std::vector<SequenceChunk>& chunks,
                            std::vector<float>& logits) const = 0;
  std::vector<float> forward(const std::vector<SequenceChunk>& chunks) const {
    std::vector<float> logits;
    forward_into(chunks, logits);
    return logits;
  }

  // Throws kInvalidArgument where forward() cannot run with the adapter, which fits linear_slots().
  virtual void check_adapter(const LoraAdapter&) const {}

  // Negative log-likelihoods in nats of the tree's targets, in order, rounded as forward() does
  // (kFloat32) or as a gradient step's forward pass in bfloat16, which is faster. `adapter` may be
  // null. Throws kInvalidArgument for a token, a row or a position that is out of range.
  virtual std::vector<float> target_losses(const TokenTree& tree, const LoraAdapter* adapter,
                                           GradientOptions::Compute compute) const = 0;
  std::vector<float> target_losses(const TokenTree& tree, const LoraAdapter* adapter) const {
    return target_losses(tree, adapter, GradientOptions::Compute::kFloat32);
  }
  // The same, and adds the gradient of sum(weight * loss) with respect to the adapter's matrices to
  // `gradients`, which were made for it.
  virtual std::vector<float> accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                                  const GradientOptions& options,
                                                  LoraGradients& gradients) const = 0;

  // Hugging Face module paths of every Linear that an adapter can target and its [in, out] sizes:
  // "model.layers.0.self_attn.q_proj".
  struct LinearSlot {
    std::string path;
    int64_t in_features;
    int64_t out_features;
  };
  virtual const std::vector<LinearSlot>& linear_slots() const = 0;

  // A parameter that an adapter can have in place of the model's, by its Hugging Face name:
  // "lm_head.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias".
  struct TensorSlot {
    enum class Use { kLinear, kEmbedding, kVector };  // [out, in]; [rows, width]; [width]
    std::string name;
    std::vector<int64_t> shape;
    Use use = Use::kLinear;
  };
  // Every one that the model has. A head tied to the embedding has a slot of its own.
  virtual const std::vector<TensorSlot>& tensor_slots() const = 0;
  // The values of one, as the model computes with them, row-major. REQUIRES: the name of a slot.
  virtual std::vector<float> tensor_values(const std::string& name) const = 0;
};

// Makes ready a cache that holds nothing: an encoder reads `prompt` into it. Returns the tokens
// that forward() is to be given first: the prompt itself where there is no encoder.
std::vector<int32_t> begin_sequence(const CausalLm& model, const std::vector<int32_t>& prompt,
                                    const LoraAdapter* adapter, KvCache& cache);

// Whether weights lie in a file that the system drops from memory and reads back as it likes, so
// that a model larger than memory runs: as fast as the disk reads it, with the same results.
enum class Offload {
  kOff,
  kOn,
  kAuto,  // when the model would not fit into available_memory()
};

// What computes forward().
enum class Device {
  kCpu,
  kCuda,  // the first CUDA device, see cuda_decoder.h
  kAuto,  // a CUDA device where there is one and it suits the model, else the CPU
};

struct GeneratorOptions {
  kernels::Precision precision = kernels::Precision::kFast;
  WeightOptions weights;
  Offload offload = Offload::kOff;
  Device device = Device::kCpu;
};

// A model and the text tools that came with it.
struct LoadedGenerator {
  std::string name;  // as shown to users: "smollm2-135m-instruct"
  std::filesystem::path path;
  std::string content_hash;  // SHA-256 over the weights and configuration
  GeneratorOptions options;  // that it was loaded with
  std::unique_ptr<CausalLm> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null when the model has none
  std::vector<int32_t> stop_tokens;             // end of text, end of turn
  bool is_offloaded = false;                    // weights lie in a file: see Offload
  Device device = Device::kCpu;                 // that it runs on, never kAuto
  std::string why_cpu;  // of kAuto, where there is a CUDA device: why it is not used
};

// `model` is a short name, a Hugging Face folder or a .gguf file. A folder may be one that
// bitsandbytes quantized; with kAsIs, dense weights whose config.json asks for its quantization get
// it. Throws kNotFound with the names
// that exist, kCorruptData, kInvalidArgument for a family that we do not have, naming it. kCuda
// throws kUnavailable without a device, or in a build without CUDA, and as make_cuda_decoder().
LoadedGenerator load_generator(const std::string& model, const GeneratorOptions& options);
LoadedGenerator load_generator(const std::string& model, kernels::Precision precision);

}  // namespace quarry
