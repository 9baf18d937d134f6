// Rerankers against what transformers computed: tests/golden/encoders.
#include "retriever/reranker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "retriever/eval_retrieval.h"
#include "tests/generator/models/encoder_golden.h"
#include "tests/retriever/index_fixture.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::encoder_folder;

Reranker make_reranker(const std::string& name) {
  return Reranker(load_sequence_classifier(encoder_folder(name), kernels::Precision::kExact));
}

std::vector<Hit> hits_of(const std::vector<std::string>& passages) {
  std::vector<Hit> hits;
  for (const std::string& passage : passages) {
    Hit hit;
    hit.passage.id = static_cast<int64_t>(hits.size());
    hit.passage.text = passage;
    hit.score = 100.0 - static_cast<double>(hits.size());
    hits.push_back(std::move(hit));
  }
  return hits;
}

class RerankerGolden : public testing::TestWithParam<const char*> {
 protected:
  RerankerGolden() {
    const Json json = testing_util::EncoderGolden(GetParam()).json.at("ranking");
    query_ = json.at("query").get<std::string>();
    passages_ = json.at("passages").get<std::vector<std::string>>();
    scores_ = json.at("scores").get<std::vector<double>>();
    order_.resize(scores_.size());
    std::iota(order_.begin(), order_.end(), int64_t{0});
    std::sort(order_.begin(), order_.end(), [this](int64_t a, int64_t b) {
      return scores_[static_cast<size_t>(a)] > scores_[static_cast<size_t>(b)];
    });
  }

  std::string query_;
  std::vector<std::string> passages_;
  std::vector<double> scores_;
  std::vector<int64_t> order_;  // of transformers' logits, best first
};
INSTANTIATE_TEST_SUITE_P(Golden, RerankerGolden,
                         testing::Values("bert_rerank", "xlm_roberta_rerank"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(RerankerGolden, OrderIsThatOfTransformersLogits) {
  const Reranker reranker = make_reranker(GetParam());
  const std::vector<Hit> hits = reranker.rerank(query_, hits_of(passages_), 5, nullptr);
  ASSERT_EQ(hits.size(), 5U);
  for (size_t i = 0; i < hits.size(); ++i) {
    EXPECT_EQ(hits[i].passage.id, order_[i]);
    EXPECT_NEAR(*hits[i].rerank_score, scores_[static_cast<size_t>(order_[i])], 1e-4);
    EXPECT_EQ(hits[i].score, *hits[i].rerank_score);
  }
}

TEST_P(RerankerGolden, ManyHitsAreScoredInSeveralJobsAndEqualOnesKeepTheirOrder) {
  const Reranker reranker = make_reranker(GetParam());
  std::vector<std::string> passages;
  for (int round = 0; round < 5; ++round) {
    passages.insert(passages.end(), passages_.begin(), passages_.end());
  }
  int jobs = 0;
  const auto run = [&jobs](const std::function<void()>& job) {
    ++jobs;
    job();
  };
  const std::vector<Hit> hits = reranker.rerank(query_, hits_of(passages), 1000, run);
  EXPECT_EQ(jobs, 3);  // of 40 hits
  ASSERT_EQ(hits.size(), passages.size());
  const auto count = static_cast<int64_t>(passages_.size());
  for (size_t i = 0; i < hits.size(); ++i) {
    EXPECT_EQ(hits[i].passage.id, order_[i / 5] + static_cast<int64_t>(i % 5) * count);
  }
  EXPECT_TRUE(reranker.rerank(query_, {}, 3, run).empty());
}

TEST(Reranker, ReadsTitleAndHeadingAsTheEmbedderDoes) {
  const Reranker reranker = make_reranker("bert_rerank");
  std::vector<Hit> hits = hits_of({"walk"});
  hits[0].passage.title = "the moon";
  EXPECT_EQ(*reranker.rerank("who", hits, 1, nullptr)[0].rerank_score,
            reranker.score("who", {"the moon\nwalk"})[0]);
}

TEST(Reranker, SeveralLabelsAreRefusedByName) {
  const Error error = error_of([] { Reranker::load(encoder_folder("bert_sequence")); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_STREQ(error.what(),
               "bert_sequence: has 3 labels (no, maybe, yes), a reranker is a sequence classifier "
               "with one");
}

TEST(Reranker, CandidatesAreAtLeastTopK) {
  SearchOptions options;
  options.top_k = 10;
  options.rerank_candidates = 50;
  EXPECT_EQ(candidate_search(options).top_k, 50);
  options.top_k = 70;
  EXPECT_EQ(candidate_search(options).top_k, 70);
}

class RerankedSearch : public IndexFixture {};

TEST_F(RerankedSearch, EvaluationCountsTheNewOrderOfTheFirstCandidates) {
  const Reranker reranker = make_reranker("bert_rerank");
  put_lines("/data/a.txt", "moon moon moon river");
  put_lines("/data/b.txt", "moon sea sea walk and what is more");
  put_lines("/data/c.txt", "two moon people first and much that is not of it at all");
  const auto retriever = Retriever::open(folder_.path(), nullptr);
  const std::string query = "moon";
  RetrievalEvalOptions options;
  options.search.mode = SearchMode::kLexical;
  const std::vector<Hit> plain = retriever->search(query, options.search);
  ASSERT_EQ(plain.size(), 3U);
  QaExample example;
  example.qid = "q";
  example.question = query;
  example.gold_ids = {{"a", 1}};
  const auto ranking = [&](const Reranker* with, int64_t candidates) {
    options.search.rerank_candidates = candidates;
    return evaluate_retrieval(*retriever, nullptr, with, {example}, options, nullptr, CancelFlag())
        .rows[0]
        .ranking;
  };
  const auto key = [](const Hit& hit) {
    return hit.passage.document_uri == "/data/a.txt" ? "a" : hit.passage.document_uri;
  };
  for (const size_t candidates : {2U, 3U}) {
    const auto border = plain.begin() + static_cast<long>(candidates);
    std::vector<Hit> wanted = reranker.rerank(query, {plain.begin(), border}, 10, nullptr);
    wanted.insert(wanted.end(), border, plain.end());
    const std::vector<std::string> found = ranking(&reranker, static_cast<int64_t>(candidates));
    ASSERT_EQ(found.size(), 3U);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(found[i], key(wanted[i])) << candidates << " " << i;
  }
  EXPECT_THAT(error_of([&] { ranking(nullptr, 2); }).what(),
              HasSubstr("rerank_candidates is 2, but there is no reranker"));
  EXPECT_THAT(error_of([&] { ranking(&reranker, 1001); }).what(),
              HasSubstr("rerank_candidates is 1001, wanted 0 to 1000"));
}

}  // namespace
}  // namespace quarry
