#include "generator/models/families.h"

namespace quarry {

const std::vector<CausalLmFamily>& causal_lm_families() {
  static const std::vector<CausalLmFamily> families = {
      {"llama", "LlamaForCausalLM", make_llama},
  };
  return families;
}

const std::vector<TextEncoderFamily>& text_encoder_families() {
  static const std::vector<TextEncoderFamily> families = {
      {"bert", make_bert},
  };
  return families;
}

}  // namespace quarry
