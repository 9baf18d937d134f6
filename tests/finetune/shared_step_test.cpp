#include "finetune/shared_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(DealPasses, LargePassesFirstEachToTheLeastLoaded) {
  EXPECT_THAT(deal_passes({10, 30, 20, 10}, 2), ElementsAre(1, 0, 1, 0));
  EXPECT_THAT(deal_passes({5, 5, 5}, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(deal_passes({5}, 2), ElementsAre(0));
  EXPECT_THAT(deal_passes({}, 2), IsEmpty());
}

TEST(EvenPassRows, GivesEveryRankAsManyUnlessTheCutShows) {
  EXPECT_EQ(even_pass_rows(4, 4000, 1024, 2, false), 1024);
  EXPECT_EQ(even_pass_rows(3, 3000, 1024, 2, false), 750);
  EXPECT_EQ(even_pass_rows(3, 3000, 1024, 2, true), 1024);
  EXPECT_EQ(even_pass_rows(1, 900, 1024, 2, true), 450);
  EXPECT_EQ(even_pass_rows(2, 1025, 1024, 3, true), 342);
}

TEST(SumOverRanks, AloneChangesNothing) {
  std::vector<double> values = {1.0, 2.0};
  sum_over_ranks(nullptr, values);
  EXPECT_THAT(values, ElementsAre(1.0, 2.0));
}

}  // namespace
}  // namespace quarry
