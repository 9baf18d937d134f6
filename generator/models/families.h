#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/models/causal_lm.h"
#include "generator/models/text_encoder.h"
#include "generator/quant/weight_options.h"
#include "generator/weights/gguf_file.h"
#include "generator/weights/tensor_source.h"

namespace quarry {

// What a family's factory reads. Just one of `gguf` and `config` is set. Borrowed for the call:
// models copy what they keep.
struct CausalLmSource {
  const TensorSource* tensors = nullptr;
  const GgufFile* gguf = nullptr;  // metadata of a GGUF file
  const Json* config = nullptr;    // config.json of a Hugging Face folder
  std::string description;         // of the file that holds the configuration, for messages
  WeightOptions weights;           // how Linears are held
};

// A tensor of a model under the names it has in both kinds of files.
struct ModelTensor {
  std::string hf_name;    // "model.layers.0.self_attn.q_proj.weight"
  std::string gguf_name;  // "blk.0.attn_q.weight"
  // Row i of the Hugging Face tensor is row gguf_rows[i] of GGUF's; empty: both have one order.
  std::vector<int64_t> gguf_rows;
};

// Which tensors the files of a model have, without reading them.
struct ModelLayout {
  // A Linear that adapters can target, and its weight.
  struct Linear {
    CausalLm::LinearSlot slot;
    ModelTensor weight;
  };
  std::vector<Linear> linears;
  std::vector<ModelTensor> others;  // whether all are there depends on the model: biases, the head
  std::string embedding;            // hf_name of the token embedding
  std::string head;                 // hf_name of the output head
  bool tied_head = false;           // the head's values are the embedding's
};

// A decoder-only family: one file in this folder, one row in the registry.
struct CausalLmFamily {
  const char* gguf_architecture;  // general.architecture
  const char* hf_class;           // architectures[0] of config.json
  std::unique_ptr<CausalLm> (*make)(const CausalLmSource& source, kernels::Precision precision);
  // Throw as make does.
  ModelLayout (*layout)(const CausalLmSource& source);
  // config.json for the tensors of a GGUF file. Throws kInvalidArgument for what it cannot say.
  OrderedJson (*config_from_gguf)(const GgufFile& file);
};

// Every family that load_generator knows.
const std::vector<CausalLmFamily>& causal_lm_families();
// Of a GGUF file and of a config.json. Throw kInvalidArgument, naming the families that we have,
// and kCorruptData.
const CausalLmFamily& find_causal_lm_family(const GgufFile& file);
const CausalLmFamily& find_causal_lm_family(const Json& config, const std::string& source);

// llama.cpp: Llama 1 to 3, SmolLM2 and others of that shape. Throws kCorruptData, and
// kInvalidArgument naming a configuration key whose value we cannot compute.
std::unique_ptr<CausalLm> make_llama(const CausalLmSource& source, kernels::Precision precision);
ModelLayout llama_layout(const CausalLmSource& source);
OrderedJson llama_config_from_gguf(const GgufFile& file);

// How the token vectors of a text become one.
enum class Pooling { kMean, kCls };

// What an encoder's factory reads; borrowed but for the tokenizer.
struct TextEncoderSource {
  const TensorSource* tensors = nullptr;
  const Json* config = nullptr;  // config.json
  std::string description;       // of config.json, for messages
  Pooling pooling = Pooling::kMean;
  int64_t max_tokens = 0;  // 0: as many as the model has positions
};

struct TextEncoderFamily {
  const char* model_type;  // of config.json
  std::unique_ptr<TextEncoder> (*make)(const TextEncoderSource& source,
                                       std::unique_ptr<Tokenizer> tokenizer,
                                       kernels::Precision precision);
};

const std::vector<TextEncoderFamily>& text_encoder_families();

// bert.cpp. Throws as make_llama.
std::unique_ptr<TextEncoder> make_bert(const TextEncoderSource& source,
                                       std::unique_ptr<Tokenizer> tokenizer,
                                       kernels::Precision precision);

}  // namespace quarry
