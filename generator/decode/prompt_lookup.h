#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace quarry {

// Guesses the next tokens of one sequence as those that followed the longest earlier occurrence of
// its newest tokens, in its prompt or answer or in other answers (Saxena 2023, prompt lookup
// decoding; Yang et al. 2023, arXiv:2304.04487). Of several occurrences each token is the one that
// most of them go on with, else the latest. Learns how often such guesses come true. One sequence,
// one thread.
class PromptLookup {
 public:
  struct Draft {
    std::vector<int32_t> tokens;
    // Probability that tokens 0 .. i all come true; falls with i.
    std::vector<double> chance;
    // By what each was judged: for learn().
    std::vector<size_t> rates;
    int64_t matched = 0;  // tokens that the occurrence has in common with the end of the history
  };

  PromptLookup();

  // At most `most` tokens; none when the newest token is new. `others` are texts of their own that
  // end with a negative number each (RecentAnswers). Valid until the next call of propose() or
  // learn().
  const Draft& propose(const std::vector<int32_t>& history, const std::vector<int32_t>& others,
                       int64_t most);
  const Draft& draft() const { return draft_; }
  // Drops what stands behind the first `num_tokens` of the draft: it cannot come true.
  void cut_draft(size_t num_tokens);
  // Tokens [first, history.size()) have come after propose(): learns from the draft, whether or not
  // it was used, and drops it.
  void learn(const std::vector<int32_t>& history, size_t first);

 private:
  // By the length of the match before the token, from 1; longer ones count as the last.
  static constexpr int64_t kLongestMatch = 8;
  // What the occurrences say of the token: only one of them is left, all say the same, or not.
  enum class Agreement { kSplit, kAlone, kAll };
  enum class Source { kHistory, kOthers };
  struct Matches {
    int64_t length = 0;
    std::vector<int64_t> places;  // behind the occurrences, latest first
  };

  static size_t rate_index(Source source, Agreement agreement, int64_t matched);
  static Matches longest_matches(const std::vector<int32_t>& text, int64_t end,
                                 const std::vector<int32_t>& history);
  Draft draft_from(Source source, const std::vector<int32_t>& text, Matches matches,
                   int64_t most) const;

  Draft draft_;
  // How often a token comes true, by rate_index().
  std::array<double, 2 * 3 * kLongestMatch> rates_;
};

}  // namespace quarry
