#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quarry {

// The answers that an engine gave last, whoever asked: they begin and go on alike more often than
// texts do, which prompt lookup draws on. One thread.
class RecentAnswers {
 public:
  // Stands behind each answer; no token.
  static constexpr int32_t kEnd = -1;

  // Keeps at least the last `most_tokens` tokens, at most twice as many and one answer.
  explicit RecentAnswers(size_t most_tokens = 16384) : most_tokens_(most_tokens) {}

  void add(const std::vector<int32_t>& answer);
  // One behind the other, oldest first; the first may have lost its beginning.
  const std::vector<int32_t>& tokens() const { return tokens_; }

 private:
  size_t most_tokens_;
  std::vector<int32_t> tokens_;
};

}  // namespace quarry
