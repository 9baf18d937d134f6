#include "finetune/recipes/rag_alarm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// 8 questions with 3 passages each.
StepResult step_with(int64_t step, double distinct, double effect) {
  StepResult result;
  result.step = step;
  result.sequences = 24;
  result.figures = {{"distinct_passages", distinct}, {"passage_effect", effect}};
  return result;
}
StepResult sound(int64_t step) { return step_with(step, 0.9, 0.5); }
StepResult collapsed(int64_t step) { return step_with(step, 0.125, 0.5); }
StepResult ignored(int64_t step) { return step_with(step, 0.9, 0.001); }

TEST(CollapseAlarm, WarnsOfEachKindOnce) {
  CollapseAlarm alarm;
  EXPECT_THAT(alarm.judge(sound(1), 8, 100).warning, IsEmpty());
  EXPECT_THAT(alarm.judge(collapsed(2), 8, 100).warning,
              HasSubstr("step 2: retrieval collapses: only 3 different passages among the 24"));
  EXPECT_THAT(alarm.judge(collapsed(3), 8, 100).warning, IsEmpty());
  EXPECT_THAT(alarm.judge(ignored(4), 8, 100).warning,
              HasSubstr("step 4: the generator's answers do not depend on the passages"));
  EXPECT_THAT(alarm.judge(ignored(5), 8, 100).warning, IsEmpty());
}

TEST(CollapseAlarm, StopsAfterStepsInARowOfOneKind) {
  CollapseAlarm alarm;
  int64_t step = 0;
  for (int i = 0; i < 4; ++i) EXPECT_THAT(alarm.judge(collapsed(++step), 8, 100).stop, IsEmpty());
  EXPECT_THAT(alarm.judge(ignored(++step), 8, 100).stop, IsEmpty());
  for (int i = 0; i < 4; ++i) EXPECT_THAT(alarm.judge(collapsed(++step), 8, 100).stop, IsEmpty());
  EXPECT_THAT(alarm.judge(collapsed(++step), 8, 100).stop,
              HasSubstr("step 10: retrieval collapses"));
}

TEST(CollapseAlarm, StepsThatSayNothingAreNotJudged) {
  CollapseAlarm alarm;
  for (int64_t step = 1; step <= 9; ++step) {
    EXPECT_THAT(alarm.judge(collapsed(step), 3, 100).stop, IsEmpty());
    // An index of 3 passages cannot give more.
    EXPECT_THAT(alarm.judge(collapsed(step), 8, 3).stop, IsEmpty());
  }
}

TEST(CollapseAlarm, CountsOnAfterACheckpoint) {
  CollapseAlarm before;
  for (int64_t step = 1; step <= 4; ++step) before.judge(ignored(step), 8, 100);
  CollapseAlarm after;
  after.restore(before.save(), "checkpoint-4");
  EXPECT_THAT(after.judge(ignored(5), 8, 100).stop, HasSubstr("for 5 steps in a row"));
  try {
    after.restore(Json::object(), "checkpoint-4");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("checkpoint-4: how long"));
  }
}

}  // namespace
}  // namespace quarry
