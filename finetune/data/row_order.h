#pragma once

#include <cstdint>
#include <vector>

#include "finetune/data/data_state.h"
#include "finetune/data/summary.h"
#include "finetune/data/training_set.h"

namespace quarry {

// The rows of a set that have an answer; the others count in `summary`. Throws kInvalidArgument for
// a row that is no question, naming it, and when no row has an answer.
std::vector<size_t> answered_questions(const TrainingSet& set, DataSummary& summary);

// Rows of a set, by index, in the order that seed and epoch give. One thread.
class RowOrder {
 public:
  RowOrder(std::vector<size_t> rows, uint64_t seed);

  int64_t num_rows() const { return static_cast<int64_t>(rows_.size()); }
  bool at_end() const { return state_.cursor == num_rows(); }
  // The next `most` rows of this epoch, fewer at its end.
  std::vector<size_t> take(int64_t most);
  void start_epoch(int64_t epoch);

  // restore(state()) continues with the same rows. Throws kInvalidArgument for a state of another
  // seed or a larger set. DataState::position counts rows, DataState::used is not in use.
  const DataState& state() const { return state_; }
  void restore(const DataState& state);

 private:
  void order_rows();

  std::vector<size_t> rows_;
  std::vector<size_t> order_;  // of these in this epoch
  DataState state_;
};

}  // namespace quarry
