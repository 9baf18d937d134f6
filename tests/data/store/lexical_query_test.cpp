#include "data/store/lexical_query.h"

#include <gmock/gmock.h>

namespace quarry {
namespace {

using ::testing::ElementsAre;

TEST(LexicalWords, SplitsAtPunctuation) {
  EXPECT_THAT(lexical_words("State-of-the-art, state \"OR\" NEAR(x y)*"),
              ElementsAre("state", "of", "the", "art", "state", "or", "near", "x", "y"));
}

TEST(LexicalWords, KeepsLettersBeyondAscii) {
  EXPECT_THAT(lexical_words("Crème brûlée — 東京 ٣"), ElementsAre("crème", "brûlée", "東京", "٣"));
}

TEST(LexicalWords, InvalidUtf8SeparatesWords) {
  EXPECT_THAT(lexical_words(std::string("ab\xff\xfe") + "cd\xc3"), ElementsAre("ab", "cd"));
}

TEST(LexicalQuery, LeavesOutCommonWordsAndPairsOfThem) {
  EXPECT_EQ(lexical_query("What is the capital of France?"),
            "\"capital\" OR \"france\" OR \"the capital\" OR \"capital of\" OR \"of france\"");
}

TEST(LexicalQuery, RepeatedWordsAndPairsAreThereOnce) {
  EXPECT_EQ(lexical_query("duran duran sang; Duran sang"),
            "\"duran\" OR \"sang\" OR \"duran sang\" OR \"sang duran\"");
}

TEST(LexicalQuery, KeepsCommonWordsWhenThereIsNothingElse) {
  EXPECT_EQ(lexical_query("to be or not to be"), "\"to\" OR \"be\" OR \"or\" OR \"not\"");
}

TEST(LexicalQuery, TextWithoutWordsIsEmpty) {
  EXPECT_EQ(lexical_query(""), "");
  EXPECT_EQ(lexical_query(" ?!* \"\" "), "");
}

}  // namespace
}  // namespace quarry
