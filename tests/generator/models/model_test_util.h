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

// Logits of each sequence, fed side by side: in step i pieces[s][i] tokens of sequence s.
inline std::vector<std::vector<float>> logits_in_pieces(
    const CausalLm& model, const std::vector<Sequence>& sequences,
    const std::vector<std::vector<int64_t>>& pieces) {
  std::vector<std::vector<float>> found(sequences.size());
  for (size_t step = 0; step < pieces.front().size(); ++step) {
    std::vector<SequenceChunk> chunks;
    for (size_t s = 0; s < sequences.size(); ++s) {
      chunks.push_back(sequences[s].chunk(pieces[s][step]));
    }
    const std::vector<float> logits = model.forward(chunks);
    auto at = logits.begin();
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto end = at + pieces[s][step] * model.config().vocab_size;
      found[s].insert(found[s].end(), at, end);
      at = end;
    }
  }
  return found;
}

}  // namespace quarry::testing_util
