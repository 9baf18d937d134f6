#include "finetune/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"

namespace quarry {
namespace {

LearningRateSchedule schedule(Decay decay) {
  LearningRateSchedule schedule;
  schedule.decay = decay;
  schedule.peak = 8;
  schedule.num_steps = 11;
  schedule.warmup_steps = 3;
  return schedule;
}

TEST(LearningRateSchedule, WarmsUpInEqualStepsAboveZero) {
  for (const Decay decay : {Decay::kConstant, Decay::kLinear, Decay::kCosine}) {
    EXPECT_DOUBLE_EQ(schedule(decay).at(0), 2);
    EXPECT_DOUBLE_EQ(schedule(decay).at(1), 4);
    EXPECT_DOUBLE_EQ(schedule(decay).at(2), 6);
    EXPECT_DOUBLE_EQ(schedule(decay).at(3), 8);
  }
}

TEST(LearningRateSchedule, DecaysAsItsFormulaSays) {
  EXPECT_DOUBLE_EQ(schedule(Decay::kConstant).at(10), 8);
  EXPECT_DOUBLE_EQ(schedule(Decay::kConstant).at(500), 8);
  EXPECT_DOUBLE_EQ(schedule(Decay::kLinear).at(5), 6);
  EXPECT_DOUBLE_EQ(schedule(Decay::kLinear).at(10), 1);
  EXPECT_DOUBLE_EQ(schedule(Decay::kLinear).at(11), 0);
  EXPECT_DOUBLE_EQ(schedule(Decay::kCosine).at(7), 4);
  EXPECT_NEAR(schedule(Decay::kCosine).at(5), 4 * (1 + 0.70710678118654752), 1e-14);
  EXPECT_NEAR(schedule(Decay::kCosine).at(10), 0.30448186995485305, 1e-14);
  EXPECT_DOUBLE_EQ(schedule(Decay::kCosine).at(999), 0);
}

TEST(LearningRateSchedule, RunOfOneStepHasThePeak) {
  LearningRateSchedule one;
  one.num_steps = 1;
  one.warmup_steps = warmup_steps(-1, 0.5, 1);
  EXPECT_EQ(one.warmup_steps, 0);
  EXPECT_DOUBLE_EQ(one.at(0), 5e-4);
}

TEST(LearningRateSchedule, RefusesStepsThatDoNotExist) {
  try {
    schedule(Decay::kLinear).at(-1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("step -1 of 11 with 3 warm-up steps"));
  }
}

TEST(WarmupSteps, AreGivenOrAShareRoundedUp) {
  EXPECT_EQ(warmup_steps(-1, 0.03, 1000), 30);
  EXPECT_EQ(warmup_steps(-1, 0.03, 10), 1);
  EXPECT_EQ(warmup_steps(-1, 0, 10), 0);
  EXPECT_EQ(warmup_steps(5, 0.5, 100), 5);
  EXPECT_EQ(warmup_steps(500, 0, 100), 99);
  EXPECT_EQ(warmup_steps(-1, 1, 100), 99);
  EXPECT_THROW(warmup_steps(-1, 1.5, 100), Error);
}

}  // namespace
}  // namespace quarry
