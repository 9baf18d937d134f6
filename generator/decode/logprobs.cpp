#include "generator/decode/logprobs.h"

#include <algorithm>
#include <numeric>

#include "data/core/log_sum_exp.h"

namespace quarry {

TokenLogprobs token_logprobs(const float* logits, int64_t vocab_size, int32_t token,
                             int64_t num_top) {
  const double normalizer = log_sum_exp(logits, static_cast<size_t>(vocab_size));
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
