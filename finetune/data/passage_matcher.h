#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/types.h"
#include "finetune/data/training_set.h"

namespace quarry {

// Finds the questions that a passage of an index answers. A passage is a question's gold when the
// question's gold ids name its document, or when its text and the gold passage's contain one
// another (as match_key). Texts are found by fingerprints (winnowing: Schleimer et al. 2003): two
// that share 79 letters share one. Immutable after construction. `set` is borrowed.
class PassageMatcher {
 public:
  explicit PassageMatcher(const TrainingSet& set);

  struct Match {
    int32_t row = 0;
    // The gold passage may have been cut into several: this piece holds the answer. Always true for
    // an answer that the gold passage does not spell out.
    bool holds_answer = false;
  };
  // In row order, each row once.
  std::vector<Match> match(const Passage& passage) const;

  // Questions whose TrainingRow::gold is this passage of the set, in row order.
  const std::vector<int32_t>& rows_of_gold(int32_t passage) const {
    return rows_of_gold_[static_cast<size_t>(passage)];
  }
  // Gold passages of the set that have this title; none for an empty one.
  const std::vector<int32_t>& golds_of_title(const std::string& title) const;

 private:
  std::vector<int32_t> golds_like(const std::string& key) const;
  bool holds_answer(const TrainingRow& row, const std::string& key) const;

  const TrainingSet& set_;
  std::vector<std::vector<int32_t>> rows_of_gold_;                    // by passage of the set
  std::unordered_map<std::string, std::vector<int32_t>> rows_of_id_;  // by gold id
  std::unordered_map<std::string, std::vector<int32_t>> golds_of_title_;
  std::vector<std::pair<uint64_t, int32_t>> fingerprints_;  // with their gold passage, ascending
};

// The passage and title as one key for answers that may stand in either.
std::string passage_match_key(const Passage& passage);

}  // namespace quarry
