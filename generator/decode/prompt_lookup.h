#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace quarry {

// Guesses the next tokens of one sequence as those that followed the longest earlier occurrence of
// its newest tokens (of several the latest that goes on as most do), in prompt or answer (Saxena
// 2023, prompt lookup decoding; Yang et al. 2023, arXiv:2304.04487), and learns how often such
// guesses come true. One sequence, one thread.
class PromptLookup {
 public:
  struct Draft {
    std::vector<int32_t> tokens;
    // Probability that tokens 0 .. i all come true; falls with i.
    std::vector<double> chance;
    int64_t matched = 0;  // tokens that the occurrence has in common with the end of the history
  };

  // At most `most` tokens; none when the newest token is new to the history. Valid until the next
  // call of propose() or learn().
  const Draft& propose(const std::vector<int32_t>& history, int64_t most);
  const Draft& draft() const { return draft_; }
  // Drops what stands behind the first `num_tokens` of the draft: it cannot come true.
  void cut_draft(size_t num_tokens);
  // Tokens [first, history.size()) have come after propose(): learns from the draft, whether or not
  // it was used, and drops it.
  void learn(const std::vector<int32_t>& history, size_t first);

 private:
  // By the length of the match before the token, from 1; longer ones count as the last.
  static constexpr int64_t kLongestMatch = 8;
  static size_t bucket(int64_t matched);

  Draft draft_;
  // To begin with, what tests/bench/decode_bench finds for SmolLM2-135M-Instruct on quotes from
  // SQuAD passages and on open prompts.
  std::array<double, kLongestMatch> accepted_ = {0.20, 0.50, 0.65, 0.70, 0.75, 0.75, 0.75, 0.85};
};

}  // namespace quarry
