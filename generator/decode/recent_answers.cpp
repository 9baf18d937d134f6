#include "generator/decode/recent_answers.h"

namespace quarry {

void RecentAnswers::add(const std::vector<int32_t>& answer) {
  if (answer.empty()) return;
  if (tokens_.size() > 2 * most_tokens_) {
    tokens_.erase(tokens_.begin(), tokens_.end() - static_cast<std::ptrdiff_t>(most_tokens_));
  }
  tokens_.insert(tokens_.end(), answer.begin(), answer.end());
  tokens_.push_back(kEnd);
}

}  // namespace quarry
