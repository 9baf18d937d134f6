#include "generator/decode/stop_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"
#include "generator/decode/random.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

TEST(StopMatcher, WithoutStopsTextPassesAtOnce) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, HoldsBackWhatCouldBeginAStop) {
  StopMatcher matcher({"\n\nUser:"});
  EXPECT_EQ(matcher.push("Yes.\n"), "Yes.");
  EXPECT_EQ(matcher.push("\nUs"), "");
  EXPECT_EQ(matcher.push("ing it"), "\n\nUsing it");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcher, CutsBeforeAStopOverSeveralPieces) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("go S"), "go ");
  EXPECT_EQ(matcher.push("TO"), "");
  EXPECT_EQ(matcher.push("P and more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, HeldBackTextIsGivenAtTheEnd) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.push("go STO"), "go ");
  EXPECT_EQ(matcher.finish(), "STO");
}

TEST(StopMatcher, AFailedBeginningCanHideAnotherOne) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.push("aa"), "");
  EXPECT_EQ(matcher.push("a"), "a");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, TheStopThatIsCompleteFirstWins) {
  StopMatcher matcher({"abcd", "bc"});
  EXPECT_EQ(matcher.push("xabcd"), "xa");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcher, BadStopsAreRefused) {
  const auto message_of = [](const std::string& stop) -> std::string {
    try {
      StopMatcher matcher({"ok", stop});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message_of(""), HasSubstr("stop[1] is empty"));
  EXPECT_THAT(message_of("\x82"), HasSubstr("stop[1] starts inside a UTF-8 character"));
}

// Whatever the pieces, the text is the one that single characters give.
TEST(StopMatcher, TheCutDoesNotDependOnThePieces) {
  SplitMix64 random(5);
  const auto random_text = [&](uint64_t max_length) {
    std::string text;
    const uint64_t length = 1 + random.next() % max_length;
    for (uint64_t i = 0; i < length; ++i) text += static_cast<char>('a' + random.next() % 3);
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    const std::vector<std::string> stops = {random_text(5), random_text(5), random_text(7)};
    const std::string text = random_text(40);
    const auto run = [&](uint64_t max_piece) {
      StopMatcher matcher(stops);
      std::string shown;
      for (size_t at = 0; at < text.size();) {
        const size_t n = 1 + random.next() % max_piece;
        shown += matcher.push(text.substr(at, n));
        at += n;
      }
      return shown + matcher.finish();
    };
    const std::string by_character = run(1);
    ASSERT_EQ(run(6), by_character) << text;
    ASSERT_EQ(run(64), by_character) << text;
    for (const std::string& stop : stops) {
      ASSERT_EQ(by_character.find(stop), std::string::npos) << text << " / " << stop;
    }
    ASSERT_EQ(text.substr(0, by_character.size()), by_character);
  }
}

}  // namespace
}  // namespace quarry
