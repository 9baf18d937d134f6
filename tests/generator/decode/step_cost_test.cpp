#include "generator/decode/step_cost.h"

#include <gtest/gtest.h>

namespace quarry {
namespace {

TEST(StepCost, LearnsTheTimeOfEachNumberOfRows) {
  StepCost cost;
  const auto seconds = [](int64_t rows) { return rows <= 4 ? 0.010 : 0.050; };  // a staircase
  for (int i = 0; i < 400; ++i) {
    for (const int64_t rows : {1, 4, 8}) cost.observe(rows, seconds(rows));
  }
  const double unit = cost.predict(1);
  EXPECT_NEAR(cost.predict(4) / unit, 1.0, 0.1);
  EXPECT_NEAR(cost.predict(8) / unit, 5.0, 0.5);
  EXPECT_GT(cost.predict(32), cost.predict(16));  // never seen: a line
}

TEST(StepCost, OneSlowStepSaysLittle) {
  StepCost cost;
  for (int i = 0; i < 100; ++i) {
    cost.observe(1, 0.010);
    cost.observe(4, 0.015);
  }
  const double before = cost.predict(4) / cost.predict(1);
  cost.observe(4, 60.0);  // the machine slept
  EXPECT_LT(cost.predict(4) / cost.predict(1), 1.1 * before);
}

TEST(StepCost, WhatIsNotSeenAgainFades) {
  StepCost cost;
  const double line = cost.predict(8) / cost.predict(1);
  for (int i = 0; i < 100; ++i) {
    cost.observe(1, 0.010);
    cost.observe(8, 0.100);
  }
  EXPECT_GT(cost.predict(8) / cost.predict(1), 2.0 * line);
  for (int i = 0; i < 3000; ++i) cost.observe(1, 0.010);
  EXPECT_NEAR(cost.predict(8) / cost.predict(1), line, 0.05 * line);
}

}  // namespace
}  // namespace quarry
