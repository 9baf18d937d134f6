#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/models/causal_lm.h"
#include "generator/models/model_layout.h"
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

  // The tensors of a Hugging Face folder; null for GGUF.
  const TensorSource* folder() const { return gguf == nullptr ? tensors : nullptr; }
};
// Of a GGUF file, with its weights as they are.
CausalLmSource gguf_source(const GgufFile& file);

// A family of generators: one file in this folder, one row in the registry.
struct CausalLmFamily {
  const char* gguf_architecture;  // general.architecture; null: GGUF does not have the family
  const char* hf_class;           // architectures[0] of config.json
  // Throws kCorruptData, and kInvalidArgument naming a configuration key whose value we cannot
  // compute.
  std::unique_ptr<CausalLm> (*make)(const CausalLmSource& source, kernels::Precision precision);
  // Throw as make does.
  CausalLmConfig (*config)(const CausalLmSource& source);
  ModelLayout (*layout)(const CausalLmSource& source);
  // config.json for the tensors of a GGUF file; null without gguf_architecture. Throws
  // kInvalidArgument for what config.json cannot say.
  OrderedJson (*config_from_gguf)(const GgufFile& file);
};

// Every family that load_generator knows.
const std::vector<CausalLmFamily>& causal_lm_families();
// Of a GGUF file and of a config.json. Throw kInvalidArgument, naming the families that we have,
// and kCorruptData.
const CausalLmFamily& find_causal_lm_family(const GgufFile& file);
const CausalLmFamily& find_causal_lm_family(const Json& config, const std::string& source);

// Each in the file of its name.
CausalLmFamily bart_family();
CausalLmFamily bloom_family();
CausalLmFamily gemma3_family();
CausalLmFamily gpt2_family();
CausalLmFamily gpt_neox_family();
CausalLmFamily llama_family();  // Llama 1 to 3, SmolLM2 and others of that shape
CausalLmFamily mistral_family();
CausalLmFamily mt5_family();
CausalLmFamily opt_family();
CausalLmFamily phi3_family();
CausalLmFamily qwen2_family();
CausalLmFamily qwen3_family();
CausalLmFamily t5_family();  // T5, T5 1.1, FLAN-T5

// How the token vectors of a text become one.
enum class Pooling { kMean, kCls };

// What an encoder's factory reads; borrowed but for the tokenizer.
struct TextEncoderSource {
  const TensorSource* tensors = nullptr;
  const Json* config = nullptr;  // config.json
  std::string description;       // of config.json, for messages
  Pooling pooling = Pooling::kMean;
  int64_t max_tokens = 0;  // 0: as many as the model has positions
  // Of a model with a head: stands before the path of every module of the encoder ("bert."), and
  // whether a pooler is one of them.
  std::string path;
  bool has_pooler = true;
};

class BertStack;  // generator/models/bert_stack.h

// A family of encoders: one file in this folder, one row in the registry.
struct TextEncoderFamily {
  const char* model_type;  // of config.json
  // Throws as CausalLmFamily::make.
  std::unique_ptr<TextEncoder> (*make)(const TextEncoderSource& source,
                                       std::unique_ptr<Tokenizer> tokenizer,
                                       kernels::Precision precision);
  // Its models with a head (text_heads.h); null, as the next four are: we have none.
  std::unique_ptr<BertStack> (*make_stack)(const TextEncoderSource& source,
                                           kernels::Precision precision) = nullptr;
  const char* class_prefix = nullptr;  // "Bert" of "BertForTokenClassification"
  const char* encoder = nullptr;       // "bert.": path of the encoder in a model with a head
  // Modules of its sequence classification: tanh(dense(x)) of the first token, then the labels.
  const char* sequence_dense = nullptr;
  const char* sequence_output = nullptr;
};

const std::vector<TextEncoderFamily>& text_encoder_families();
// Of a config.json. Throws kInvalidArgument, naming the families that we have.
const TextEncoderFamily& find_text_encoder_family(const Json& config, const std::string& source);

// Each in the file of its name.
TextEncoderFamily bert_family();
TextEncoderFamily dpr_family();
TextEncoderFamily roberta_family();
TextEncoderFamily xlm_roberta_family();  // roberta.cpp

}  // namespace quarry
