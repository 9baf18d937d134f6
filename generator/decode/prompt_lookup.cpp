#include "generator/decode/prompt_lookup.h"

#include <algorithm>
#include <map>

namespace quarry {
namespace {

constexpr double kLearningRate = 0.08;

// Of these places, latest first, the latest that holds the token which most of them hold.
int64_t vote(const std::vector<int32_t>& history, const std::vector<int64_t>& places) {
  std::map<int32_t, int64_t> counts;
  const auto token = [&](int64_t place) { return history[static_cast<size_t>(place)]; };
  for (const int64_t place : places) ++counts[token(place)];
  return *std::max_element(places.begin(), places.end(), [&](int64_t a, int64_t b) {
    return counts.at(token(a)) < counts.at(token(b));
  });
}

}  // namespace

size_t PromptLookup::bucket(int64_t matched) {
  return static_cast<size_t>(std::min(matched, kLongestMatch) - 1);
}

const PromptLookup::Draft& PromptLookup::propose(const std::vector<int32_t>& history,
                                                 int64_t most) {
  draft_ = Draft();
  const int64_t size = static_cast<int64_t>(history.size());
  std::vector<int64_t> places;  // behind the longest occurrences, latest first
  for (int64_t end = size - 1; end > 0; --end) {
    int64_t matched = 0;
    while (matched < kLongestMatch && matched < end &&
           history[static_cast<size_t>(end - 1 - matched)] ==
               history[static_cast<size_t>(size - 1 - matched)]) {
      ++matched;
    }
    if (matched == 0 || matched < draft_.matched) continue;
    if (matched > draft_.matched) places.clear();
    draft_.matched = matched;
    places.push_back(end);
  }
  if (places.empty()) return draft_;
  const int64_t follows = vote(history, places);
  double chance = 1.0;
  for (int64_t i = 0; i < most; ++i) {
    chance *= accepted_[bucket(draft_.matched + i)];
    const int64_t next = follows + i;  // past the history: the draft goes on like a loop
    draft_.tokens.push_back(next < size ? history[static_cast<size_t>(next)]
                                        : draft_.tokens[static_cast<size_t>(next - size)]);
    draft_.chance.push_back(chance);
  }
  return draft_;
}

void PromptLookup::cut_draft(size_t num_tokens) {
  if (num_tokens >= draft_.tokens.size()) return;
  draft_.tokens.resize(num_tokens);
  draft_.chance.resize(num_tokens);
}

void PromptLookup::learn(const std::vector<int32_t>& history, size_t first) {
  const size_t most = std::min(draft_.tokens.size(), history.size() - first);
  for (size_t i = 0; i < most; ++i) {
    const bool hit = draft_.tokens[i] == history[first + i];
    double& accepted = accepted_[bucket(draft_.matched + static_cast<int64_t>(i))];
    accepted += kLearningRate * ((hit ? 1.0 : 0.0) - accepted);
    if (!hit) break;
  }
  draft_ = Draft();
}

}  // namespace quarry
