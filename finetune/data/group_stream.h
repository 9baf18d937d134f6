#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "finetune/data/data_state.h"
#include "finetune/data/group_planner.h"
#include "finetune/data/sequence.h"
#include "finetune/data/summary.h"

namespace quarry {

// Training sequences of a set, group by group, epoch by epoch, made when they are asked for. The
// order depends on set, options, seed and epoch alone. In an epoch each row is learned with its own
// answer at most once, and at most once with passages that do not answer it (id
// "...#unanswerable"). One thread.
class GroupStream {
 public:
  // Arguments as GroupPlanner's, all borrowed. Stands before epoch 0's first group.
  GroupStream(const TrainingSet& set, const SequenceRenderer& renderer, const Retriever* retriever,
              const Embedder* embedder, const GroupOptions& options);

  // The next group of this epoch, never empty; nothing at the epoch's end. Throws kInvalidArgument
  // naming the row when it is too long and that is an error.
  std::optional<std::vector<TrainingSequence>> next_group();
  void start_epoch(int64_t epoch);
  int64_t epoch() const { return state_.epoch; }

  // restore(state()) continues with exactly the same groups. Throws kInvalidArgument for a state of
  // another seed or a set of another size.
  const DataState& state() const { return state_; }
  void restore(const DataState& state);

  // Since the stream was made: neither reset by an epoch nor part of the state.
  const DataSummary& summary() const { return summary_; }

 private:
  GroupPlan next_plan();
  void order_rows();
  bool at_end();
  std::vector<TrainingSequence> render(const GroupPlan& plan);
  void render_question(const GroupPlan& plan, const GroupPlan::Question& question,
                       std::vector<TrainingSequence>& sequences);
  void too_long(const TrainingRow& row, const std::string& reason);

  GroupPlanner planner_;
  std::vector<int32_t> order_;  // of the rows in this epoch
  DataState state_;
  DataSummary summary_;
};

}  // namespace quarry
