#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/types.h"
#include "finetune/data/data_state.h"
#include "finetune/data/group_options.h"
#include "finetune/data/passage_matcher.h"
#include "finetune/data/render.h"
#include "finetune/data/training_set.h"
#include "generator/decode/random.h"
#include "retriever/search.h"

namespace quarry {

// Questions asked of one list of passages.
struct GroupPlan {
  struct Question {
    int32_t row = 0;
    bool refused = false;  // the reply is the fixed one although the row has an answer
  };
  std::vector<Hit> passages;
  std::vector<Question> questions;  // the anchor first
  std::string skipped;              // why there is no question; else empty
};

// Chooses passages for a question and other questions that go with them. One thread.
//
// A retrieved group has the first k hits of its anchor (k = top_k for half of the groups, else 1 to
// top_k), a random one replaced by the gold passage when that is missing. Questions whose gold is
// among them join, and as unanswerable ones questions of the passages that follow in the ranking:
// no passage of the group is their gold or holds their answer.
class GroupPlanner {
 public:
  // All are borrowed. `retriever` and `embedder` may be null where they are not needed. Throws
  // kInvalidArgument: options out of range; retrieval without an index, or by vectors without an
  // embedder; kGold for a row without a gold passage, naming it.
  GroupPlanner(const TrainingSet& set, const SequenceRenderer& renderer, const Retriever* retriever,
               const Embedder* embedder, const GroupOptions& options);

  // Depends only on its arguments. `anchors_ahead` are rows that may be planned next: their
  // searches are run together with the anchor's.
  GroupPlan plan(int64_t epoch, int32_t anchor, const UsedRows& used,
                 const std::vector<int32_t>& anchors_ahead);

  const TrainingSet& set() const { return set_; }
  const GroupOptions& options() const { return options_; }
  const SequenceRenderer& renderer() const { return renderer_; }

 private:
  struct Pool;  // what a group is filled from

  const TrainingRow& row(int32_t index) const { return set_.rows[static_cast<size_t>(index)]; }
  SplitMix64 random_of(int64_t epoch, int32_t anchor) const;
  bool wants_search(int64_t epoch, int32_t anchor) const;
  void search_ahead(int64_t epoch, int32_t anchor, const UsedRows& used,
                    const std::vector<int32_t>& anchors_ahead);
  GroupPlan plan_given(int32_t anchor, const UsedRows& used, SplitMix64& random) const;
  Pool pool_of_gold(int32_t anchor, SplitMix64& random) const;
  Pool pool_of_search(int32_t anchor, const UsedRows& used, SplitMix64& random);
  bool remove_gold(int32_t anchor, int64_t count, const std::vector<Hit>& found, Pool& pool) const;
  void put_gold_in(int32_t anchor, const std::vector<Hit>& found, SplitMix64& random,
                   Pool& pool) const;
  void fit(int32_t anchor, Pool& pool) const;
  GroupPlan fill(int32_t anchor, const UsedRows& used, SplitMix64& random, Pool&& pool) const;
  void nearest_first(const std::vector<std::string>& keys, std::vector<int32_t>& rows) const;
  void add_unanswerable(const UsedRows& used, SplitMix64& random, const Pool& pool,
                        GroupPlan& plan) const;
  std::optional<Hit> gold_hit(int32_t anchor) const;
  bool is_gold(const Passage& passage, int32_t anchor) const;
  bool knows_gold(int32_t anchor) const {
    return row(anchor).gold >= 0 || !row(anchor).gold_ids.empty();
  }

  const TrainingSet& set_;
  const SequenceRenderer& renderer_;
  const Retriever* retriever_;
  const Embedder* embedder_;
  GroupOptions options_;
  PassageMatcher matcher_;
  std::vector<std::vector<int32_t>> rows_of_list_;          // rows with the same list of passages
  std::vector<int32_t> list_of_row_;                        // -1: no passages
  std::unordered_map<int32_t, std::vector<Hit>> searches_;  // by anchor, until it is planned
};

}  // namespace quarry
