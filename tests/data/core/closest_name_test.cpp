#include "data/core/closest_name.h"

#include <gtest/gtest.h>

namespace quarry {
namespace {

std::string closest(const std::string& word, const std::vector<std::string>& names) {
  const std::optional<size_t> found = closest_name(word, names);
  return found ? names[*found] : "none";
}

TEST(ClosestName, FindsSlipsOfTheHand) {
  const std::vector<std::string> names = {"index", "search", "--top-k", "learning_rate", "r"};
  EXPECT_EQ(closest("indx", names), "index");
  EXPECT_EQ(closest("saerch", names), "search");
  EXPECT_EQ(closest("--topk", names), "--top-k");
  EXPECT_EQ(closest("learning_rte", names), "learning_rate");
  EXPECT_EQ(closest("r", names), "r");
  EXPECT_EQ(closest("abc", {"abd", "abe"}), "abd");
}

TEST(ClosestName, GuessesNothingFromFarAway) {
  const std::vector<std::string> names = {"index", "ask", "r", "k"};
  for (const char* word : {"", "x", "lr", "xyz", "foo", "retriever", "warp_drive"}) {
    EXPECT_EQ(closest(word, names), "none") << word;
  }
  EXPECT_EQ(closest(std::string(1000000, 'a'), {std::string(199, 'a')}), "none");
  EXPECT_EQ(closest("index", {}), "none");
}

}  // namespace
}  // namespace quarry
