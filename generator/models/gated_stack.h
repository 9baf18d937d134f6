#pragma once

#include <cstdint>
#include <vector>

#include "generator/nn/attention.h"
#include "generator/nn/head_norm.h"
#include "generator/nn/linear.h"
#include "generator/nn/rms_norm.h"
#include "generator/nn/rope_table.h"

namespace quarry {

// What a decoder of llama's kin is made of, for who runs it elsewhere than nn/ does
// (cuda_decoder.h). Borrowed from the model. In order:
//   x = embedding * embedding_scale
//   x += [after_attention_norm] o(attention(rope([head_norm] qkv(attention_norm(x)))))
//   x += [after_mlp_norm] down(gate(g) * u), g and u of gate_up(mlp_norm(x))
//   final_norm(x)
struct GatedStack {
  enum class Gate { kSilu, kGeluTanh };
  struct Layer {
    const nn::RmsNorm* attention_norm = nullptr;
    const nn::Linear* qkv = nullptr;
    const nn::HeadNorm* head_norm = nullptr;  // null: none
    const nn::Linear* o = nullptr;
    const nn::RmsNorm* after_attention_norm = nullptr;  // null: none
    const nn::RmsNorm* mlp_norm = nullptr;
    const nn::Linear* gate_up = nullptr;
    const nn::Linear* down = nullptr;
    const nn::RmsNorm* after_mlp_norm = nullptr;  // null: none
    nn::RopeTable* rope = nullptr;                // its tables grow
    int64_t window = 0;
  };
  nn::AttentionHeads heads;
  float embedding_scale = 1.0f;
  Gate gate = Gate::kSilu;
  std::vector<Layer> layers;
  const nn::RmsNorm* final_norm = nullptr;
};

}  // namespace quarry
