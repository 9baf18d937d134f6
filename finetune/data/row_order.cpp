#include "finetune/data/row_order.h"

#include <algorithm>

#include "data/core/error.h"
#include "finetune/data/random_order.h"

namespace quarry {

std::vector<size_t> answered_questions(const TrainingSet& set, DataSummary& summary) {
  summary.rows = static_cast<int64_t>(set.rows.size());
  summary.skipped = set.skipped;
  std::vector<size_t> answered;
  for (size_t i = 0; i < set.rows.size(); ++i) {
    const TrainingRow& row = set.rows[i];
    QUARRY_CHECK(row.kind == TrainingRow::Kind::kQuestion, ErrorCode::kInvalidArgument, row.where,
                 ": row ", row.id,
                 " is no question with an answer, for which passages could be found");
    if (row.answers.empty()) {
      ++summary.skipped["no answer to learn"];
    } else {
      answered.push_back(i);
    }
  }
  QUARRY_CHECK(!answered.empty(), ErrorCode::kInvalidArgument,
               "the training data has no question with an answer");
  return answered;
}

RowOrder::RowOrder(std::vector<size_t> rows, uint64_t seed) : rows_(std::move(rows)) {
  state_.seed = seed;
  start_epoch(0);
}

void RowOrder::start_epoch(int64_t epoch) {
  state_.epoch = epoch;
  state_.position = state_.cursor = 0;
  order_rows();
}

void RowOrder::order_rows() {
  order_ = rows_;
  SplitMix64 random = stream_of(state_.seed, static_cast<uint64_t>(state_.epoch), 0);
  shuffle(order_, random);
}

std::vector<size_t> RowOrder::take(int64_t most) {
  const int64_t count = std::min(most, num_rows() - state_.cursor);
  const auto first = order_.begin() + state_.cursor;
  state_.cursor += count;
  state_.position += count;
  return {first, first + count};
}

void RowOrder::restore(const DataState& state) {
  QUARRY_CHECK(state.seed == state_.seed, ErrorCode::kInvalidArgument,
               "the data state was made with seed ", state.seed, ", this run has ", state_.seed);
  QUARRY_CHECK(state.cursor <= num_rows(), ErrorCode::kInvalidArgument,
               "the data state stands at row ", state.cursor, " of an epoch, this set has ",
               num_rows());
  state_ = state;
  order_rows();
}

}  // namespace quarry
