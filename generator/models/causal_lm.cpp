#include "generator/models/causal_lm.h"

#include "data/core/error.h"

namespace quarry {

void CausalLm::encode(const std::vector<int32_t>&, const LoraAdapter*, KvCache&) const {
  throw_error(ErrorCode::kInvalidArgument, "a model of the family '", config().architecture,
              "' has no encoder");
}

std::vector<int32_t> begin_sequence(const CausalLm& model, const std::vector<int32_t>& prompt,
                                    const LoraAdapter* adapter, KvCache& cache) {
  if (!model.config().has_encoder()) return prompt;
  model.encode(prompt, adapter, cache);
  return model.config().decoder_prompt;
}

}  // namespace quarry
