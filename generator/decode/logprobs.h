#pragma once

#include <cstdint>
#include <vector>

namespace quarry {

// What the model held of one token of a text: natural logarithms of probabilities as the model gave
// them, before penalty, bias, temperature and filters; of a constrained text among the tokens that
// might come.
struct TokenLogprobs {
  struct Alternative {
    int32_t token = 0;
    float logprob = 0.0f;
  };
  int32_t token = 0;  // the one that was chosen
  float logprob = 0.0f;
  std::vector<Alternative> top;  // the likeliest, best first; equal ones by the lower id
};

constexpr int64_t kMostTopLogprobs = 20;

// logits [vocab_size]. REQUIRES: 0 <= token < vocab_size, 0 <= num_top.
TokenLogprobs token_logprobs(const float* logits, int64_t vocab_size, int32_t token,
                             int64_t num_top);

}  // namespace quarry
