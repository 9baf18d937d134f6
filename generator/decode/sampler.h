#pragma once

#include <cstdint>
#include <unordered_set>
#include <vector>

#include "generator/decode/engine.h"
#include "generator/decode/random.h"

namespace quarry {

// Chooses the next token of one sequence from its logits. One sequence, one thread.
class Sampler {
 public:
  // `options` must be valid. Tokens of `prompt` count for the repetition penalty.
  Sampler(const SamplingOptions& options, const std::vector<int32_t>& prompt);

  // `logits` has vocab_size floats. The token chosen counts for the penalty from then on. Equal
  // logits rank by the lower id. Throws kInternal when a logit is NaN or none is finite.
  int32_t sample(const float* logits, int64_t vocab_size);

 private:
  struct Candidate {
    int32_t id;
    double score;   // logit, then logit / temperature
    double weight;  // exp(score - best score)
  };

  // The logits after the penalty.
  const float* penalize(const float* logits, int64_t vocab_size);
  void keep_top_k();
  void weigh();
  void keep_top_p();
  void keep_min_p();
  int32_t draw();

  SamplingOptions options_;
  std::unordered_set<int32_t> seen_;
  SplitMix64 random_;
  std::vector<float> penalized_;       // logits after the penalty, where there is one
  std::vector<Candidate> candidates_;  // scratch of sample()
};

}  // namespace quarry
