#include "generator/decode/recent_answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RecentAnswers, StandBehindEachOther) {
  RecentAnswers answers;
  EXPECT_THAT(answers.tokens(), IsEmpty());
  answers.add({1, 2});
  answers.add({});
  answers.add({3});
  EXPECT_THAT(answers.tokens(), ElementsAre(1, 2, RecentAnswers::kEnd, 3, RecentAnswers::kEnd));
}

TEST(RecentAnswers, TheOldestAreForgotten) {
  RecentAnswers answers(4);
  for (int32_t i = 0; i < 100; ++i) {
    answers.add({i, i});
    EXPECT_LE(answers.tokens().size(), 2u * 4 + 3);
  }
  const std::vector<int32_t>& tokens = answers.tokens();
  ASSERT_GE(tokens.size(), 4u);
  EXPECT_EQ(tokens.back(), RecentAnswers::kEnd);
  EXPECT_EQ(tokens[tokens.size() - 2], 99);
}

}  // namespace
}  // namespace quarry
