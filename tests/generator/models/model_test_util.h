#pragma once

#include <string>
#include <vector>

#include "generator/models/causal_lm.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"

namespace quarry::testing_util {

inline std::string golden(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/models/" + name;
}

// A sequence that is fed in pieces.
struct Sequence {
  Sequence(const CausalLm& model, std::vector<int32_t> ids, const LoraAdapter* with = nullptr)
      : tokens(std::move(ids)), cache(model.make_cache()), adapter(with) {}

  SequenceChunk chunk(int64_t num_tokens) const {
    SequenceChunk result;
    result.tokens = tokens.data() + cache->length();
    result.num_tokens = num_tokens;
    result.cache = cache.get();
    result.adapter = adapter;
    result.all_logits = true;
    return result;
  }

  std::vector<int32_t> tokens;
  std::unique_ptr<KvCache> cache;
  const LoraAdapter* adapter;
};

// Logits of every token, fed at once, alone.
inline std::vector<float> all_logits(const CausalLm& model, const std::vector<int32_t>& tokens,
                                     const LoraAdapter* adapter = nullptr) {
  const Sequence sequence(model, tokens, adapter);
  return model.forward({sequence.chunk(static_cast<int64_t>(tokens.size()))});
}

}  // namespace quarry::testing_util
