#include "generator/decode/prompt_lookup.h"

#include <algorithm>
#include <map>

namespace quarry {
namespace {

constexpr double kLearningRate = 0.08;
// Occurrences that have a say, the latest: a text may repeat one token thousands of times.
constexpr size_t kMostPlaces = 64;

// What the rates are to begin with, in the order of rate_index(): what tests/bench/decode_bench
// finds for SmolLM2-135M-Instruct on quotes from SQuAD passages, answers and open prompts.
constexpr std::array<double, 48> kFirstRates = {
    0.15, 0.31, 0.49, 0.51, 0.50, 0.55, 0.55, 0.55,  // history, split
    0.31, 0.57, 0.74, 0.76, 0.80, 0.78, 0.81, 0.87,  // alone
    0.62, 0.82, 0.82, 0.86, 0.86, 0.90, 0.93, 0.97,  // all
    0.10, 0.12, 0.20, 0.20, 0.30, 0.30, 0.35, 0.40,  // others, split
    0.15, 0.30, 0.45, 0.50, 0.50, 0.60, 0.65, 0.75,  // alone
    0.40, 0.60, 0.65, 0.70, 0.75, 0.80, 0.80, 0.95,  // all
};

// Of these, latest first, the most frequent; of several the latest.
int32_t most_frequent(const std::vector<int32_t>& tokens) {
  std::map<int32_t, int64_t> counts;
  for (const int32_t token : tokens) ++counts[token];
  return *std::max_element(tokens.begin(), tokens.end(),
                           [&](int32_t a, int32_t b) { return counts.at(a) < counts.at(b); });
}

}  // namespace

PromptLookup::PromptLookup() : rates_(kFirstRates) {}

size_t PromptLookup::rate_index(Source source, Agreement agreement, int64_t matched) {
  const auto row = 3 * static_cast<int64_t>(source) + static_cast<int64_t>(agreement);
  return static_cast<size_t>(row * kLongestMatch + std::min(matched, kLongestMatch) - 1);
}

// Of the end of `history` within text[0, end).
PromptLookup::Matches PromptLookup::longest_matches(const std::vector<int32_t>& text, int64_t end,
                                                    const std::vector<int32_t>& history) {
  Matches matches;
  const int64_t size = static_cast<int64_t>(history.size());
  const int32_t* newest = history.data() + size - 1;
  for (; end > 0; --end) {
    const int32_t* token = text.data() + end - 1;
    if (*token != *newest) continue;
    int64_t length = 1;
    const int64_t most = std::min({kLongestMatch, end, size});
    while (length < most && token[-length] == newest[-length]) ++length;
    if (length < matches.length) continue;
    if (length > matches.length) matches.places.clear();
    matches.length = length;
    if (matches.places.size() == kMostPlaces) continue;
    matches.places.push_back(end);
  }
  return matches;
}

PromptLookup::Draft PromptLookup::draft_from(Source source, const std::vector<int32_t>& text,
                                             Matches matches, int64_t most) const {
  Draft draft;
  draft.matched = matches.length;
  const auto size = static_cast<int64_t>(text.size());
  double chance = 1.0;
  std::vector<int32_t> next;  // of each place that has said what the draft says
  for (int64_t i = 0; i < most; ++i) {
    next.clear();
    std::vector<int64_t> places;
    for (const int64_t place : matches.places) {
      const int64_t at = place + i;
      int32_t token = -1;
      if (at < size) {
        token = text[static_cast<size_t>(at)];
      } else if (source == Source::kHistory) {  // goes on like a loop
        token = draft.tokens[static_cast<size_t>(at - size)];
      }
      if (token < 0) continue;
      next.push_back(token);
      places.push_back(place);
    }
    if (places.empty()) break;
    const int32_t token = most_frequent(next);
    matches.places.clear();
    for (size_t j = 0; j < places.size(); ++j) {
      if (next[j] == token) matches.places.push_back(places[j]);
    }
    const Agreement agreement = places.size() == 1                       ? Agreement::kAlone
                                : matches.places.size() == places.size() ? Agreement::kAll
                                                                         : Agreement::kSplit;
    draft.rates.push_back(rate_index(source, agreement, matches.length + i));
    chance *= rates_[draft.rates.back()];
    draft.tokens.push_back(token);
    draft.chance.push_back(chance);
  }
  return draft;
}

const PromptLookup::Draft& PromptLookup::propose(const std::vector<int32_t>& history,
                                                 const std::vector<int32_t>& others, int64_t most) {
  draft_ = Draft();
  if (history.empty() || most <= 0) return draft_;
  draft_ =
      draft_from(Source::kHistory, history,
                 longest_matches(history, static_cast<int64_t>(history.size()) - 1, history), most);
  Draft other =
      draft_from(Source::kOthers, others,
                 longest_matches(others, static_cast<int64_t>(others.size()), history), most);
  const auto first_chance = [](const Draft& draft) {
    return draft.chance.empty() ? 0.0 : draft.chance[0];
  };
  if (first_chance(other) > first_chance(draft_)) draft_ = std::move(other);
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
    double& rate = rates_[draft_.rates[i]];
    rate += kLearningRate * ((hit ? 1.0 : 0.0) - rate);
    if (!hit) break;
  }
  draft_ = Draft();
}

}  // namespace quarry
