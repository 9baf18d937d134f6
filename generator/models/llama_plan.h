#pragma once

#include <string>
#include <vector>

#include "generator/models/families.h"

namespace quarry {

// Names of the weights of a llama, without ".weight".
struct LlamaNames {
  const char* embedding;
  const char* final_norm;
  const char* head;
  const char* layer;  // + "<number>."
  const char* attention_norm;
  const char* q;
  const char* k;
  const char* v;
  const char* o;
  const char* mlp_norm;
  const char* gate;
  const char* up;
  const char* down;
};
extern const LlamaNames kLlamaGgufNames;
extern const LlamaNames kLlamaHuggingFaceNames;

// A configuration and what else the assembly has to know.
struct LlamaPlan {
  CausalLmConfig config;
  LlamaNames names;
  std::vector<float> inv_freq;  // [head_dim / 2]
  WeightOptions weights;
  bool interleaved_rope = false;  // rows of q and k pair (2i, 2i + 1): GGUF's order
};

// Reads and checks the configuration. Throws as make_llama.
LlamaPlan plan_llama(const CausalLmSource& source);

// Where GGUF converters put the rows of q and k: the pair (i, i + D / 2) of a head stands at rows
// (2i, 2i + 1). Element i is the GGUF row of the Hugging Face row i. Moving whole rows is exact,
// and then adapters made for the Hugging Face layout fit as they are.
std::vector<int64_t> interleaved_rows(int64_t num_heads, int64_t head_dim);

}  // namespace quarry
