#pragma once

#include <string>

#include "generator/models/decoder_loader.h"
#include "generator/models/model_layout.h"

namespace quarry {

// What a layer of llama and its kin stores: q, k, v and o; gate, up and down; a norm before each of
// the two blocks. What they do with it is the family's.
struct GatedLayer {
  const nn::RmsNorm& attention_norm;  // [E]
  const nn::Linear& qkv;              // E -> (H + 2 K) D
  const nn::Linear& o;                // H D -> E
  const nn::RmsNorm& mlp_norm;        // [E]
  const nn::Linear& gate_up;          // E -> 2 F
  const nn::Linear& down;             // F -> E
};

struct GatedLayerOptions {
  BiasUse qkv_bias = BiasUse::kOptional;
  BiasUse other_bias = BiasUse::kOptional;
  bool gguf_interleaves_q_k = false;  // interleaved_rows()
};

// "model.layers.<number>." and "blk.<number>."
std::string hf_layer(int64_t number);
std::string gguf_layer(int64_t number);

// Token embedding, all layers, final norm and head by llama's names.
void add_gated_layers(LayoutBuilder& layout, const CausalLmConfig& config,
                      const GatedLayerOptions& options);
GatedLayer load_gated_layer(DecoderLoader& load, int64_t number, double epsilon);

}  // namespace quarry
