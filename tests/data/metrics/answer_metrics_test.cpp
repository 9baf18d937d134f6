#include "data/metrics/answer_metrics.h"

#include <gtest/gtest.h>

#include "data/core/json.h"

namespace quarry {
namespace {

TEST(AnswerMetrics, NormalizingDropsCasePunctuationArticlesAndSpaces) {
  EXPECT_EQ(normalize_answer("The  Eiffel\tTower!"), "eiffel tower");
  EXPECT_EQ(normalize_answer("a an the"), "");
  EXPECT_EQ(normalize_answer("theory of another ant"), "theory of another ant");
  EXPECT_EQ(normalize_answer("U.S.A."), "usa");
}

TEST(AnswerMetrics, ArticleIsAWordByUnicodeLettersOnly) {
  EXPECT_EQ(normalize_answer("\xC3\xA9"
                             "a a\xE2\x80\x93"
                             "b"),
            "\xC3\xA9"
            "a \xE2\x80\x93"
            "b");
}

TEST(AnswerMetrics, ExactMatchTakesTheBestGold) {
  EXPECT_EQ(exact_match("the 1973", {"October 1973", "1973"}), 1.0);
  EXPECT_EQ(exact_match("in 1973", {"October 1973", "1973"}), 0.0);
  EXPECT_EQ(exact_match("x", {}), 0.0);
}

TEST(AnswerMetrics, F1CountsRepeatedTokensOnce) {
  // precision 2/3, recall 2/2
  EXPECT_DOUBLE_EQ(token_f1("new new york", {"New York"}), 0.8);
  EXPECT_DOUBLE_EQ(token_f1("new york", {"paris", "York"}), 2.0 / 3.0);
  EXPECT_DOUBLE_EQ(token_f1("the", {"the"}), 0.0);  // nothing is left to share
}

// Rows that the official script scored: tests/golden/squad_metrics/make.py.
TEST(AnswerMetrics, EqualsTheOfficialScriptOnGoldenRows) {
  const Json rows = read_json_file(QUARRY_SOURCE_DIR "/tests/golden/squad_metrics/rows.json");
  ASSERT_GE(rows.size(), 300U);
  for (const Json& row : rows) {
    const auto prediction = row["prediction"].get<std::string>();
    const auto golds = row["golds"].get<std::vector<std::string>>();
    EXPECT_EQ(normalize_answer(prediction), row["normalized"].get<std::string>()) << row;
    EXPECT_EQ(exact_match(prediction, golds), row["em"].get<double>()) << row;
    EXPECT_NEAR(token_f1(prediction, golds), row["f1"].get<double>(), 1e-12) << row;
  }
}

}  // namespace
}  // namespace quarry
