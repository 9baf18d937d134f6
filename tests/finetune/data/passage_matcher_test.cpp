#include "finetune/data/passage_matcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "finetune/data/text_match.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string kLong =
    "The first bridge over the Alder was built in 1801 by Ann Smith, who had never seen a river. "
    "It "
    "stood for two hundred years, until the flood of 2001 carried its three arches away.";

Passage passage_of(const std::string& uri, const std::string& text) {
  Passage passage;
  passage.document_uri = uri;
  passage.text = text;
  return passage;
}

TrainingRow row_of(const std::string& answer, int32_t gold, const std::vector<std::string>& ids) {
  TrainingRow row;
  row.answers = {answer};
  row.gold = gold;
  row.gold_ids = ids;
  return row;
}

std::vector<int32_t> rows_of(const std::vector<PassageMatcher::Match>& matches) {
  std::vector<int32_t> rows;
  for (const PassageMatcher::Match& match : matches) rows.push_back(match.row);
  return rows;
}

class Matcher : public ::testing::Test {
 protected:
  Matcher() {
    set_.passages = {passage_of("", kLong), passage_of("", "Short text."),
                     passage_of("",
                                "Another text that is long enough to leave fingerprints of its "
                                "own, about the ferry of Birkby and its captain.")};
    set_.passages[0].title = "Alder";
    set_.rows = {row_of("1801", 0, {"p1"}), row_of("2001", 0, {"p1"}), row_of("Short", 1, {}),
                 row_of("the captain's view", 2, {}), row_of("x", -1, {"p7"})};
  }
  TrainingSet set_;
};

TEST_F(Matcher, ARecordsIdNamesItsQuestions) {
  const PassageMatcher matcher(set_);
  const auto matches = matcher.match(passage_of("/c.jsonl#p1", "A piece with 1801 in it."));
  EXPECT_THAT(rows_of(matches), ElementsAre(0, 1));
  EXPECT_TRUE(matches[0].holds_answer);
  EXPECT_FALSE(matches[1].holds_answer) << "this piece of the document lacks 2001";
  EXPECT_THAT(rows_of(matcher.match(passage_of("/c.jsonl#p7", "x"))), ElementsAre(4));
  EXPECT_THAT(matcher.match(passage_of("/c.jsonl#p2", "A piece.")), IsEmpty());
}

TEST_F(Matcher, TextsThatContainOneAnotherMatchWhateverTheirLineEndsAndQuotes) {
  const PassageMatcher matcher(set_);
  std::string broken = kLong;
  broken[9] = '\n';
  EXPECT_THAT(rows_of(matcher.match(passage_of("/d.txt", broken))), ElementsAre(0, 1));
  const std::string page = "A page on many towns begins here. " + kLong + " And goes on.";
  EXPECT_THAT(rows_of(matcher.match(passage_of("/d.txt", page))), ElementsAre(0, 1));
  const auto half = matcher.match(passage_of("/d.txt", kLong.substr(0, kLong.find(" It "))));
  EXPECT_THAT(rows_of(half), ElementsAre(0, 1));
  EXPECT_TRUE(half[0].holds_answer);
  EXPECT_FALSE(half[1].holds_answer);
  EXPECT_THAT(rows_of(matcher.match(passage_of("/d.txt", "SHORT  text."))), ElementsAre(2));
}

TEST_F(Matcher, ASharedSentenceIsNoMatch) {
  const PassageMatcher matcher(set_);
  const std::string sentence = kLong.substr(0, kLong.find(" It "));
  EXPECT_THAT(matcher.match(passage_of("/d.txt", sentence + " Then it burnt down.")), IsEmpty());
}

TEST_F(Matcher, AnAnswerThatTheGoldDoesNotSpellOutIsHeldByAnyMatch) {
  const PassageMatcher matcher(set_);
  const auto matches = matcher.match(passage_of("/d.txt", set_.passages[2].text));
  ASSERT_THAT(rows_of(matches), ElementsAre(3));
  EXPECT_TRUE(matches[0].holds_answer);
}

TEST_F(Matcher, GoldsByTitle) {
  const PassageMatcher matcher(set_);
  EXPECT_THAT(matcher.golds_of_title("Alder"), ElementsAre(0));
  EXPECT_THAT(matcher.golds_of_title(""), IsEmpty());
  EXPECT_THAT(matcher.rows_of_gold(0), ElementsAre(0, 1));
}

TEST(MatchKey, DropsCaseBlanksAndQuotationMarks) {
  EXPECT_EQ(match_key("The court 's\n``ÄRA'' \u201Cnow\u201D"), "thecourtsäranow");
  EXPECT_TRUE(holds_any(match_key("in New  York."), {"Rome", "new york"}));
  EXPECT_FALSE(holds_any(match_key("anything"), {"", "\""}));
}

}  // namespace
}  // namespace quarry
