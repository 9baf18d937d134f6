#include "api/relevance.h"

#include <gtest/gtest.h>

namespace quarry {
namespace {

Hit hit_of(const std::string& text, std::optional<double> dense) {
  Hit hit;
  hit.passage.title = "Coal";
  hit.passage.text = text;
  hit.dense_score = dense;
  return hit;
}

TEST(Relevance, IsTheMeanOfCosineAndCoverage) {
  // "inventor", "steam" and "engine": two of three are held.
  const std::vector<Hit> hits = {hit_of("The steam engines of mines.", 0.6)};
  EXPECT_NEAR(relevance("Who was the inventor of the steam engine?", hits),
              0.5 * 0.6 + 0.5 * 2.0 / 3.0, 1e-12);
}

TEST(Relevance, TheBestHitCounts) {
  const std::vector<Hit> hits = {hit_of("Nothing.", 0.2), hit_of("Steam engine", 0.5),
                                 hit_of("Steam", 0.3)};
  EXPECT_NEAR(relevance("steam engine", hits), 0.75, 1e-12);
}

TEST(Relevance, TitleAndEndingsCount) {
  EXPECT_NEAR(relevance("coals mining", {hit_of("It was mined.", 1.0)}), 1.0, 1e-12);
}

TEST(Relevance, LexicalHitsAreScaled) {
  EXPECT_NEAR(relevance("steam turbine", {hit_of("Steam.", std::nullopt)}), 0.45, 1e-12);
}

TEST(Relevance, AHitBeyondTheDenseCandidatesHasNoDenseScore) {
  EXPECT_NEAR(relevance("steam", {hit_of("Steam.", std::nullopt), hit_of("x", 0.1)}), 0.5, 1e-12);
}

TEST(Relevance, OnlyFunctionWordsLeaveTheDenseScore) {
  EXPECT_NEAR(relevance("What is it?", {hit_of("Steam.", 0.3)}), 0.3, 1e-12);
  EXPECT_EQ(relevance("What is it?", {hit_of("Steam.", -0.3)}), 0.0);
}

TEST(Relevance, NoHitsAreIrrelevant) { EXPECT_EQ(relevance("steam", {}), 0.0); }

TEST(Relevance, OtherScriptsAreRead) {
  EXPECT_NEAR(relevance("\xC3\x89nergie", {hit_of("\xC3\xA9nergie", 0.0)}), 0.5, 1e-12);
  // Ideographs count one by one, as no blanks part them.
  EXPECT_EQ(count_content_words("\xE4\xBD\xA0\xE5\xA5\xBD"), 2u);
  EXPECT_EQ(count_content_words("the of \xFF\xFE x"), 0u);
}

}  // namespace
}  // namespace quarry
