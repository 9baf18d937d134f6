#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generator/models/causal_lm.h"

namespace quarry {

class TensorSource;  // generator/weights/tensor_source.h

// A tensor of a model under the names it has in both kinds of files.
struct ModelTensor {
  std::string hf_name;         // "model.layers.0.self_attn.q_proj.weight"
  std::string gguf_name;       // "blk.0.attn_q.weight"; empty: GGUF does not have the family
  std::vector<int64_t> shape;  // [out, in] of a Linear, [rows, width] of a table, [width]
  // Its name in the folder at hand: hf_name, or that without its first part in a folder that was
  // saved without a head.
  std::string folder_name;
  // Row i of the Hugging Face tensor is row gguf_rows[i] of GGUF's; empty: both have one order.
  std::vector<int64_t> gguf_rows;
  float gguf_offset = 0.0f;  // GGUF holds the values plus this
  bool is_conv1d = false;    // a Hugging Face Conv1D: its folders hold [in, out]
  bool optional = false;
};

// Which tensors the files of a model have, without reading them.
struct ModelLayout {
  // A Linear that adapters can target, and its weight.
  struct Linear {
    CausalLm::LinearSlot slot;
    ModelTensor weight;
  };
  std::vector<Linear> linears;
  std::vector<ModelTensor> others;
  std::string embedding;   // hf_name of the token embedding
  std::string head;        // hf_name of the output head
  std::string head_bias;   // of what is added to the logits [1, rows]; empty: nothing
  bool tied_head = false;  // the head's values are the embedding's
};

enum class BiasUse { kNone, kOptional, kRequired };

// Puts a layout together, module by module. Module names are without ".weight".
class LayoutBuilder {
 public:
  struct LinearOptions {
    BiasUse bias = BiasUse::kOptional;
    bool is_conv1d = false;
    std::vector<int64_t> gguf_rows;
  };
  // `folder`: tensors of a Hugging Face folder, or null for GGUF. `root`: the part of the names
  // that folders saved without a head lack ("transformer.").
  LayoutBuilder(const TensorSource* folder, std::string root)
      : folder_(folder), root_(std::move(root)) {}

  // Token embedding and head [rows, width]. The head is optional: it may be tied.
  void embedding(const std::string& hf, const std::string& gguf, int64_t rows, int64_t width);
  void head(const std::string& hf, const std::string& gguf, int64_t rows, int64_t width,
            bool is_tied);
  // Of a folder; optional, as transformers has it.
  void head_bias(const std::string& hf, int64_t rows);
  // Another table that is looked up by row (positions).
  void table(const std::string& hf, const std::string& gguf, int64_t rows, int64_t width);
  void linear(const std::string& hf, const std::string& gguf, int64_t in, int64_t out);
  void linear(const std::string& hf, const std::string& gguf, int64_t in, int64_t out,
              const LinearOptions& options);
  void rms_norm(const std::string& hf, const std::string& gguf, int64_t width,
                float gguf_offset = 0.0f);
  void layer_norm(const std::string& hf, const std::string& gguf, int64_t width);

  ModelLayout take();

 private:
  ModelTensor make(const std::string& hf, const std::string& gguf, const char* parameter,
                   std::vector<int64_t> shape) const;

  const TensorSource* folder_;
  std::string root_;
  ModelLayout layout_;
};

// Where GGUF converters put the rows of q and k of the llama architecture: the pair (i, i + D / 2)
// of a head stands at rows (2i, 2i + 1). Moving whole rows is exact, and then adapters made for the
// Hugging Face layout fit as they are.
std::vector<int64_t> interleaved_rows(int64_t num_heads, int64_t head_dim);
// Where GGUF converters put the rows of a Linear whose Hugging Face rows are q, k and v of one head
// after the other: all of q, all of k, all of v.
std::vector<int64_t> rows_by_head(int64_t num_heads, int64_t head_dim);

}  // namespace quarry
