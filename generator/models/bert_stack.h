#pragma once

#include <memory>
#include <string>
#include <vector>

#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"
#include "generator/models/config_values.h"
#include "generator/models/text_batch.h"
#include "generator/nn/embedding.h"
#include "generator/nn/linear.h"
#include "generator/nn/workspace.h"
#include "generator/weights/tensor_source.h"

namespace quarry {

// What the families of BERT (Devlin et al. 2018, arXiv:1810.04805) differ in.
struct BertConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;    // rows of the table of positions
  int64_t position_offset = 0;  // row of a text's first token in it
  int64_t num_token_types = 0;
  float norm_epsilon = 1e-12f;
  std::string root;  // stands before every tensor's name in the file: "bert.", or nothing
  std::string path;  // stands before every module's path, as adapters address it
  bool has_pooler = true;

  int64_t max_tokens() const { return max_positions - position_offset; }
};

// Everything but position_offset, root and path. Throws as CausalLmFamily::make.
BertConfig read_bert_config(const ConfigValues& values);
// `root` when the tensors stand below it, and nothing when they are saved bare, as those of a model
// without a head are.
std::string find_bert_root(const TensorSource& tensors, const std::string& root);

struct BertLayer {
  nn::Linear qkv;  // E -> 3 E
  nn::Linear attention_output;
  nn::Tensor attention_norm_weight;  // [E]
  nn::Tensor attention_norm_bias;
  nn::Linear intermediate;  // E -> F
  nn::Linear output;        // F -> E
  nn::Tensor output_norm_weight;
  nn::Tensor output_norm_bias;
};

// Who runs the layers elsewhere: on x [T, E], which becomes the token vectors. From any thread.
class BertDevice {
 public:
  virtual ~BertDevice() = default;
  // `adapter` may be null.
  virtual void run(const TextBatch& batch, const LoraAdapter* adapter, float* x) const = 0;
};

// Embeddings and layers: a post-norm bidirectional encoder without a head. Immutable.
class BertStack {
 public:
  // Throws kCorruptData.
  BertStack(const TensorSource& tensors, const BertConfig& config, kernels::Precision precision);

  const BertConfig& config() const { return config_; }
  const std::vector<BertLayer>& layers() const { return layers_; }
  bool is_exact() const { return !rounds_; }
  // From now on forward() without gradients runs there. Before the first forward().
  void set_device(std::unique_ptr<BertDevice> device) { device_ = std::move(device); }
  // For for_each_batch().
  int64_t rows_per_batch() const {
    return device_ == nullptr ? kRowsPerBatch : kRowsPerDeviceBatch;
  }
  // Every Linear that an adapter can target, by config().path and its path in the bare model. The
  // pooler is one, though vectors do not pass through it: "all-linear" of PEFT adapts it too.
  std::vector<CausalLm::LinearSlot> linear_slots() const;
  // Token vectors [T, E]. `adapter` and `gradients` may be null. Differentiable with respect to
  // the adapter.
  nn::Tensor forward(const TextBatch& batch, const LoraAdapter* adapter, LoraGradients* gradients,
                     nn::Workspace& workspace) const;

 private:
  nn::Tensor embed(const TextBatch& batch, nn::Workspace& workspace) const;

  BertConfig config_;
  bool rounds_;  // products, to bfloat16
  nn::Embedding word_embedding_;
  nn::Embedding position_embedding_;
  nn::Embedding type_embedding_;
  nn::Tensor first_type_;  // [E], row 0 of it: what most texts have throughout
  nn::Tensor embedding_norm_weight_;
  nn::Tensor embedding_norm_bias_;
  std::vector<BertLayer> layers_;
  std::unique_ptr<BertDevice> device_;  // null: the CPU
};

}  // namespace quarry
