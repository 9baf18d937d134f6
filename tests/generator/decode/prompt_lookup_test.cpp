#include "generator/decode/prompt_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(PromptLookup, GoesOnAsAfterTheLongestMatch) {
  PromptLookup lookup;
  //                                          3 tokens match here     1 matches here, later
  const std::vector<int32_t> history = {9, 1, 2, 3, 4, 5, 6, 7, 3, 8, 8, 1, 2, 3};
  const PromptLookup::Draft& draft = lookup.propose(history, {}, 4);
  EXPECT_EQ(draft.matched, 3);
  EXPECT_THAT(draft.tokens, ElementsAre(4, 5, 6, 7));
}

TEST(PromptLookup, OfEquallyLongMatchesTheMostFrequentThenTheLatestCounts) {
  PromptLookup lookup;
  EXPECT_THAT(lookup.propose({2, 50, 8, 2, 50, 9, 2, 60, 2}, {}, 2).tokens, ElementsAre(50, 9));
  EXPECT_THAT(lookup.propose({1, 2, 50, 1, 2, 60, 1, 2}, {}, 1).tokens, ElementsAre(60));
}

TEST(PromptLookup, EachTokenIsTheOneThatMostOfThoseLeftGoOnWith) {
  PromptLookup lookup;
  //                                     two of three go on with 50, then one with 8 and one with 9
  EXPECT_THAT(lookup.propose({2, 50, 9, 2, 50, 8, 2, 60, 7, 2}, {}, 3).tokens,
              ElementsAre(50, 8, 2));
}

TEST(PromptLookup, PlacesThatAgreePromiseMoreThanOneAloneAndOneAloneMoreThanASplit) {
  PromptLookup lookup;
  const double all = lookup.propose({2, 50, 8, 2, 50, 9, 2}, {}, 1).chance[0];
  const double alone = lookup.propose({2, 50, 8, 3, 51, 9, 2}, {}, 1).chance[0];
  const double split = lookup.propose({2, 50, 8, 2, 51, 9, 2}, {}, 1).chance[0];
  EXPECT_GT(all, alone);
  EXPECT_GT(alone, split);
}

TEST(PromptLookup, OtherAnswersAreLookedThroughWhereTheHistoryHasNothing) {
  PromptLookup lookup;
  const std::vector<int32_t> others = {1, 2, 3, 4, 5, -1, 9, 8, -1};
  EXPECT_THAT(lookup.propose({7, 1, 2, 3}, others, 9).tokens, ElementsAre(4, 5));
  // The end of an answer is nobody's next token, nor does a match reach over it.
  EXPECT_THAT(lookup.propose({7, 5}, others, 9).tokens, IsEmpty());
  EXPECT_EQ(lookup.propose({4, 5, 9}, others, 9).matched, 1);
  EXPECT_THAT(lookup.propose({7}, others, 9).tokens, IsEmpty());
}

TEST(PromptLookup, OfVeryManyOccurrencesTheLatestCount) {
  PromptLookup lookup;
  std::vector<int32_t> history;
  for (const auto& [token, times] : {std::pair<int32_t, int>{50, 1000}, {60, 70}}) {
    for (int i = 0; i < times; ++i) history.insert(history.end(), {2, token});
  }
  history.push_back(2);
  EXPECT_THAT(lookup.propose(history, {}, 1).tokens, ElementsAre(60));
}

TEST(PromptLookup, TheSequencesOwnWordsAreBelievedFirst) {
  PromptLookup lookup;
  EXPECT_THAT(lookup.propose({1, 2, 3, 8, 1, 2, 3}, {1, 2, 3, 4, -1}, 1).tokens, ElementsAre(8));
  // Until they have often been wrong and the others right.
  for (int32_t i = 0; i < 200; ++i) {
    lookup.propose({1, 2, 3, 8, 1, 2, 3}, {}, 1);
    lookup.learn({1, 2, 3, 8, 1, 2, 3, 4}, 7);
    lookup.propose({7, 1, 2, 3}, {1, 2, 3, 4, -1}, 1);
    lookup.learn({7, 1, 2, 3, 4}, 4);
  }
  EXPECT_THAT(lookup.propose({1, 2, 3, 8, 1, 2, 3}, {1, 2, 3, 4, -1}, 1).tokens, ElementsAre(4));
}

TEST(PromptLookup, ALoopGoesOn) {
  PromptLookup lookup;
  EXPECT_THAT(lookup.propose({7, 1, 2, 1, 2}, {}, 5).tokens, ElementsAre(1, 2, 1, 2, 1));
  EXPECT_THAT(lookup.propose({5, 5}, {}, 3).tokens, ElementsAre(5, 5, 5));
}

TEST(PromptLookup, NothingToGoByGivesNoDraft) {
  PromptLookup lookup;
  EXPECT_THAT(lookup.propose({1}, {}, 5).tokens, IsEmpty());
  EXPECT_THAT(lookup.propose({1, 2, 3}, {}, 5).tokens, IsEmpty());
  EXPECT_THAT(lookup.propose({1, 1}, {}, 0).tokens, IsEmpty());
}

TEST(PromptLookup, ChancesFallAlongADraft) {
  PromptLookup lookup;
  const PromptLookup::Draft& draft = lookup.propose({1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, {}, 15);
  ASSERT_EQ(draft.chance.size(), 15u);
  EXPECT_LT(draft.chance[0], 1.0);
  for (size_t i = 1; i < 15; ++i) EXPECT_LE(draft.chance[i], draft.chance[i - 1]);
  EXPECT_GT(draft.chance[14], 0.0);
}

TEST(PromptLookup, LearnsFromDraftsThatWereNotUsed) {
  std::vector<int32_t> history;
  for (int32_t i = 0; i < 100; ++i) history.push_back(i);
  // The beginning comes again: each guess comes true, one step after the other.
  PromptLookup lookup;
  history.push_back(0);
  const double before = lookup.propose(history, {}, 1).chance[0];
  for (int32_t i = 1; i < 60; ++i) {
    lookup.propose(history, {}, 1);
    history.push_back(i);
    lookup.learn(history, history.size() - 1);
  }
  EXPECT_GT(lookup.propose(history, {}, 1).chance[0], 0.95);
  // Then every guess fails.
  for (int32_t i = 0; i < 60; ++i) {
    history.push_back(i);
    lookup.propose(history, {}, 1);
    history.push_back(1000 + i);
    lookup.learn(history, history.size() - 1);
  }
  history.push_back(7);
  EXPECT_LT(lookup.propose(history, {}, 1).chance[0], before);
}

TEST(PromptLookup, ADraftThatIsCutTeachesWhatIsLeftOfIt) {
  PromptLookup lookup;
  const std::vector<int32_t> history = {1, 2, 3, 4, 1, 2};
  lookup.propose(history, {}, 4);
  lookup.cut_draft(9);
  EXPECT_THAT(lookup.draft().tokens, ElementsAre(3, 4, 1, 2));
  lookup.cut_draft(1);
  EXPECT_THAT(lookup.draft().tokens, ElementsAre(3));
  EXPECT_EQ(lookup.draft().chance.size(), 1u);
  lookup.cut_draft(0);
  EXPECT_THAT(lookup.draft().tokens, IsEmpty());
  const double before = lookup.propose(history, {}, 1).chance[0];
  lookup.cut_draft(0);
  lookup.learn({1, 2, 3, 4, 1, 2, 9}, 6);
  EXPECT_EQ(lookup.propose(history, {}, 1).chance[0], before);
}

TEST(PromptLookup, LearnsNothingWithoutADraft) {
  PromptLookup lookup;
  const std::vector<int32_t> history = {1, 2, 1};
  const double before = lookup.propose(history, {}, 1).chance[0];
  lookup.learn({1, 2, 1, 2}, 3);
  const double after = lookup.propose(history, {}, 1).chance[0];
  EXPECT_GT(after, before);
  lookup.learn({1, 2, 1, 2}, 3);
  lookup.learn({1, 2, 1, 2}, 3);  // the draft is gone
  EXPECT_GT(lookup.propose(history, {}, 1).chance[0], after);
  PromptLookup twice;
  twice.propose(history, {}, 1);
  twice.learn({1, 2, 1, 2}, 3);
  twice.propose(history, {}, 1);
  twice.learn({1, 2, 1, 2}, 3);
  EXPECT_EQ(twice.propose(history, {}, 1).chance[0], lookup.propose(history, {}, 1).chance[0]);
}

}  // namespace
}  // namespace quarry
