#include "generator/decode/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quarry {

TokenLogprobs token_logprobs(const float* logits, int64_t vocab_size, int32_t token,
                             int64_t num_top) {
  const float largest = *std::max_element(logits, logits + vocab_size);
  double sum = 0.0;
  for (int64_t i = 0; i < vocab_size; ++i) sum += std::exp(double{logits[i]} - largest);
  const double normalizer = largest + std::log(sum);
  const auto logprob = [&](int32_t id) { return static_cast<float>(logits[id] - normalizer); };
  TokenLogprobs result;
  result.token = token;
  result.logprob = logprob(token);
  std::vector<int32_t> ids(static_cast<size_t>(vocab_size));
  std::iota(ids.begin(), ids.end(), 0);
  const auto last = ids.begin() + static_cast<std::ptrdiff_t>(std::min(num_top, vocab_size));
  std::partial_sort(ids.begin(), last, ids.end(), [logits](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (auto id = ids.begin(); id != last; ++id) result.top.push_back({*id, logprob(*id)});
  return result;
}

}  // namespace quarry
