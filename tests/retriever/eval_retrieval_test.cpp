#include "retriever/eval_retrieval.h"

#include <gtest/gtest.h>

#include "tests/retriever/index_fixture.h"

namespace quarry {
namespace {

class EvalRetrieval : public IndexFixture {
 protected:
  EvalRetrieval() {
    put_lines("/data/a.jsonl#p1", "red apples grow\nred apples fall");
    put_lines("/data/a.jsonl#p2", "green pears grow slowly");
    put_lines("/data/notes.md", "blue plums are red inside");
    retriever_ = Retriever::open(folder_.path(), nullptr);
    options_.search.mode = SearchMode::kLexical;
    options_.cutoffs = {1, 2};
  }
  RetrievalReport evaluate(const std::vector<QaExample>& examples) {
    return evaluate_retrieval(*retriever_, nullptr, nullptr, examples, options_, nullptr,
                              CancelFlag());
  }
  static QaExample example(const std::string& qid, const std::string& question,
                           const std::map<std::string, double>& gold) {
    QaExample made;
    made.qid = qid;
    made.question = question;
    made.gold_ids = gold;
    return made;
  }
  double metric(const RetrievalReport& report, const std::string& name) {
    for (const RetrievalMetric& metric : report.metrics) {
      if (metric.name == name) return metric.estimate.mean;
    }
    ADD_FAILURE() << "no metric " << name;
    return -1;
  }

  std::unique_ptr<Retriever> retriever_;
  RetrievalEvalOptions options_;
};

TEST_F(EvalRetrieval, PassagesOfADocumentCountOnceAtTheBestRank) {
  // Both passages of p1 come before the plums, which are the second document.
  const auto report = evaluate(
      {example("q1", "red apples", {{"p1", 1}}), example("q2", "red apples", {{"notes.md", 1}})});
  EXPECT_EQ(report.rows[0].first_rank, 1);
  EXPECT_EQ(report.rows[1].first_rank, 2);
  EXPECT_DOUBLE_EQ(metric(report, "R@1"), 0.5);
  EXPECT_DOUBLE_EQ(metric(report, "R@2"), 1.0);
  EXPECT_DOUBLE_EQ(metric(report, "MRR@10"), 0.75);
}

TEST_F(EvalRetrieval, GoldIdMayBeUriRecordFileNameOrStem) {
  const auto report = evaluate(
      {example("q1", "pears", {{"/data/a.jsonl#p2", 1}}), example("q2", "pears", {{"p2", 1}}),
       example("q3", "plums", {{"notes", 1}}), example("q4", "plums", {{"p2", 1}})});
  EXPECT_DOUBLE_EQ(metric(report, "hit@1"), 0.75);
  EXPECT_EQ(report.rows[3].first_rank, 0);
}

TEST_F(EvalRetrieval, GoldTextMatchesAPassageThatHoldsItOrAPartOfIt) {
  QaExample whole;
  whole.qid = "q1";
  whole.question = "red apples fall";
  whole.gold_text = "Before.  red apples\nfall After.";
  const auto report = evaluate({whole});
  EXPECT_EQ(report.rows[0].first_rank, 1);
}

TEST_F(EvalRetrieval, PassageIdsAreTakenOnRequest) {
  options_.match = GoldMatch::kPassageId;
  const auto report = evaluate({example("q1", "pears", {{"3", 1}})});
  EXPECT_EQ(report.rows[0].first_rank, 1);
  EXPECT_EQ(parse_gold_match("passage-id"), GoldMatch::kPassageId);
}

TEST_F(EvalRetrieval, GradedGainsGoIntoNdcg) {
  const auto report = evaluate({example("q1", "red apples", {{"p1", 1}, {"notes", 2}})});
  const double found = 1.0 + 2.0 / std::log2(3.0);
  const double ideal = 2.0 + 1.0 / std::log2(3.0);
  EXPECT_DOUBLE_EQ(metric(report, "nDCG@10"), found / ideal);
}

TEST_F(EvalRetrieval, ManyQuestionsKeepTheirOrder) {
  options_.search.mode = SearchMode::kHybrid;
  const auto embedder = letter_embedder();
  const auto retriever = Retriever::open(folder_.path(), embedder);
  std::vector<QaExample> examples;
  for (int i = 0; i < 600; ++i) {
    examples.push_back(example(std::to_string(i), i % 2 == 0 ? "green pears" : "blue plums",
                               {{i % 2 == 0 ? "p2" : "notes", 1}}));
  }
  int64_t last = 0;
  const auto report = evaluate_retrieval(
      *retriever, embedder.get(), nullptr, examples, options_,
      [&last](int64_t done) { last = done; }, CancelFlag());
  EXPECT_EQ(last, 600);
  EXPECT_DOUBLE_EQ(metric(report, "R@1"), 1.0);
  EXPECT_EQ(report.rows[599].qid, "599");
}

TEST_F(EvalRetrieval, QuestionWithoutGoldIsNamed) {
  EXPECT_STREQ(error_of([&] { evaluate({example("q9", "x", {})}); }).what(),
               "question q9 names no gold passage to look for, wanted \"gold_ids\" (documents) or "
               "\"passage\" (its text)");
  options_.cutoffs = {0};
  EXPECT_STREQ(error_of([&] {
                 evaluate({example("q", "x", {{"p1", 1}})});
               }).what(),
               "cutoff 0 is out of range: wanted 1 to 1000");
}

TEST_F(EvalRetrieval, CancellingEndsIt) {
  CancelFlag cancel;
  cancel.cancel();
  EXPECT_EQ(error_of([&] {
              evaluate_retrieval(*retriever_, nullptr, nullptr, {example("q", "x", {{"p1", 1}})},
                                 options_, nullptr, cancel);
            }).code(),
            ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace quarry
