#include "finetune/recipes/take_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "finetune/data/data_state.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;

// Three rows an epoch; in the first `good` epochs each gives its number.
class Rows {
 public:
  explicit Rows(int64_t good) : good_(good) {}
  const DataState& state() const { return state_; }
  const DataSummary& summary() const { return summary_; }
  bool at_end() const { return state_.cursor == 3; }
  void start_epoch(int64_t epoch) {
    state_.epoch = epoch;
    state_.cursor = 0;
  }
  std::vector<int> next(int64_t most) {
    std::vector<int> items;
    for (; most > 0 && !at_end(); --most, ++state_.cursor) {
      if (state_.epoch < good_) items.push_back(static_cast<int>(state_.cursor));
    }
    return items;
  }

 private:
  int64_t good_;
  DataState state_;
  DataSummary summary_;
};

TEST(TakeRows, EpochsBeginAnewUntilTheCountIsThere) {
  Rows rows(9);
  EXPECT_THAT(take_rows<int>(
                  rows, 2, [] { return true; }, "none"),
              ElementsAre(0, 1));
  EXPECT_THAT(take_rows<int>(
                  rows, 5, [] { return true; }, "none"),
              ElementsAre(2, 0, 1, 2, 0));
  int64_t calls = 0;
  EXPECT_THAT(take_rows<int>(
                  rows, 5, [&] { return ++calls < 2; }, "none"),
              ElementsAre(1, 2));
}

void expect_no_row(Rows rows, int64_t count) {
  test::expect_error(
      [&] {
        take_rows<int>(
            rows, count, [] { return true; }, "no row");
      },
      ErrorCode::kInvalidArgument, "no row:");
}

TEST(TakeRows, AnEpochThatGivesNothingIsAnError) {
  expect_no_row(Rows(0), 2);
  expect_no_row(Rows(1), 4);  // also where there were some before
}

}  // namespace
}  // namespace quarry
