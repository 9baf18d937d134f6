#include "retriever/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "tests/retriever/index_fixture.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

class Search : public IndexFixture {
 protected:
  void put_animals() {
    put_lines("cats", "the quick cat sleeps\na cat hunts mice\ncats purr", {{"lang", "en"}});
    put_lines("dogs", "the dog barks\nquick dogs run after a cat", {{"lang", "en"}});
    put_lines("chats",
              "le chat dort\nun cat fran\xC3\xA7"
              "ais",
              {{"lang", "fr"}});
  }
  std::unique_ptr<Retriever> open() { return Retriever::open(folder_.path(), letter_embedder()); }
};

SearchOptions options_for(SearchMode mode, int64_t top_k = 10) {
  SearchOptions options;
  options.mode = mode;
  options.top_k = top_k;
  return options;
}

TEST_F(Search, LexicalFindsWordsAndNothingElse) {
  put_animals();
  const auto hits = open()->search("mice", options_for(SearchMode::kLexical));
  ASSERT_EQ(hits.size(), 1U);
  EXPECT_EQ(hits[0].passage.text, "a cat hunts mice");
  EXPECT_EQ(hits[0].passage.document_uri, "cats");
  EXPECT_GT(*hits[0].lexical_score, 0.0);
  EXPECT_EQ(hits[0].score, *hits[0].lexical_score);
  EXPECT_FALSE(hits[0].dense_score);
}

TEST_F(Search, DenseFindsTheNearestWithoutSharedWords) {
  put_animals();
  const auto hits = open()->search("cats purr", options_for(SearchMode::kDense, 3));
  ASSERT_EQ(hits.size(), 3U);
  EXPECT_EQ(hits[0].passage.text, "cats purr");
  EXPECT_NEAR(hits[0].score, 1.0, 1e-5);
  EXPECT_FALSE(hits[0].lexical_score);
}

TEST_F(Search, HybridScoresEveryHitByBothModes) {
  put_animals();
  const auto retriever = open();
  const auto hits = retriever->search("quick cat", options_for(SearchMode::kHybrid));
  ASSERT_EQ(hits.size(), 7U);
  EXPECT_EQ(hits[0].passage.text, "the quick cat sleeps");
  for (const Hit& hit : hits) {
    ASSERT_TRUE(hit.dense_score);
    const bool shares = hit.passage.text.find("cat") != std::string::npos ||
                        hit.passage.text.find("quick") != std::string::npos;
    EXPECT_EQ(hit.lexical_score.has_value(), shares) << hit.passage.text;
  }
  // One candidate from each mode: what the other mode found is scored all the same.
  SearchOptions narrow = options_for(SearchMode::kHybrid, 1);
  narrow.candidates = 1;
  const auto best = retriever->search("quick cat", narrow);
  EXPECT_TRUE(best[0].dense_score && best[0].lexical_score);
}

TEST_F(Search, FilterIsAppliedInEveryModeAndNotAfterwards) {
  put_animals();
  for (int i = 0; i < 300; ++i)
    put_lines("noise" + std::to_string(i), "cat cat cat", {{"lang", "en"}});
  const auto retriever = open();
  for (const SearchMode mode : {SearchMode::kDense, SearchMode::kLexical, SearchMode::kHybrid}) {
    SearchOptions options = options_for(mode, 1);
    options.candidates = 1;
    options.filter = {{"lang", "fr"}};
    const auto hits = retriever->search("cat", options);
    ASSERT_EQ(hits.size(), 1U);
    EXPECT_EQ(hits[0].passage.document_uri, "chats");
    options.filter = {{"lang", "de"}};
    EXPECT_TRUE(retriever->search("cat", options).empty());
  }
}

TEST_F(Search, RandomFiltersEqualBruteForceOverTheVisible) {
  std::mt19937 random(5);
  const std::vector<std::string> words = {"ab", "cd", "ef", "gh", "ij", "kl", "mn", "op"};
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (int w = 0; w < 4; ++w) text += words[random() % words.size()] + " ";
    put_lines("d" + std::to_string(i), text,
              {{"owner", std::to_string(random() % 4)}, {"kind", std::to_string(random() % 2)}});
  }
  const auto retriever = open();
  for (int round = 0; round < 24; ++round) {
    SearchOptions all = options_for(static_cast<SearchMode>(round % 3), 100);
    const std::string query = words[random() % words.size()] + " " + words[random() % words.size()];
    Metadata filter = {{"owner", std::to_string(random() % 4)}};
    if (round % 2 == 0) filter["kind"] = "1";
    std::set<std::string> visible;
    std::set<std::string> found;
    for (const Hit& hit : retriever->search(query, all)) {
      const auto fits = [&hit](const auto& pair) {
        const auto value = hit.passage.metadata.find(pair.first);
        return value != hit.passage.metadata.end() && value->second == pair.second;
      };
      if (std::all_of(filter.begin(), filter.end(), fits)) visible.insert(hit.passage.document_uri);
    }
    all.filter = filter;
    for (const Hit& hit : retriever->search(query, all)) found.insert(hit.passage.document_uri);
    EXPECT_EQ(found, visible) << query;
  }
}

TEST_F(Search, RefreshShowsCommitsAndRemovals) {
  put_animals();
  const auto retriever = open();
  put_lines("zebras", "zebra stripes");
  remove("dogs");
  retriever->refresh();
  const auto hits = retriever->search("zebra stripes", options_for(SearchMode::kDense, 1));
  EXPECT_EQ(hits.at(0).passage.document_uri, "zebras");
  for (const Hit& hit : retriever->search("dog barks", options_for(SearchMode::kHybrid, 20))) {
    EXPECT_NE(hit.passage.document_uri, "dogs");
  }
  EXPECT_EQ(retriever->stats().documents, 3);
}

TEST_F(Search, BetweenCommitAndRefreshNothingBreaks) {
  put_animals();
  const auto retriever = open();
  remove("cats");
  put_lines("zebras", "zebra cat");
  for (const SearchMode mode : {SearchMode::kDense, SearchMode::kLexical, SearchMode::kHybrid}) {
    for (const Hit& hit : retriever->search("quick zebra cat", options_for(mode, 20))) {
      EXPECT_NE(hit.passage.document_uri, "cats");
    }
  }
}

TEST_F(Search, ManyThreadsSearchWhileAWriterCommits) {
  put_animals();
  const auto retriever = open();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      do {
        const auto hits = retriever->search("cats purr", options_for(SearchMode::kHybrid, 3));
        if (hits.empty() || hits[0].passage.text != "cats purr") ++wrong;
      } while (!stop);
    });
  }
  for (int i = 0; i < 20; ++i) {
    put_lines("extra" + std::to_string(i), "unrelated words of number " + std::to_string(i));
    retriever->refresh();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Search, AnotherEmbedderIsRefusedByName) {
  put_animals();
  const Error error = error_of([&] { Retriever::open(folder_.path(), letter_embedder("beef")); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(
      std::string(error.what()),
      folder_.path().string() +
          ": made with the embedder fake (0123), not with letters (beef): use the first, with its "
          "adapter if any, or build a new index");
}

TEST_F(Search, WithoutEmbedderOnlyLexicalSearchWorks) {
  put_animals();
  const auto retriever = Retriever::open(folder_.path(), nullptr);
  EXPECT_EQ(retriever->search("mice", options_for(SearchMode::kLexical)).size(), 1U);
  retriever->refresh();
  const Error error =
      error_of([&] { retriever->search("mice", options_for(SearchMode::kHybrid)); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(), HasSubstr("need an embedder"));
}

TEST_F(Search, OptionsOutOfRangeAreNamed) {
  put_animals();
  const auto retriever = open();
  SearchOptions options;
  options.top_k = 0;
  EXPECT_STREQ(error_of([&] { retriever->search("x", options); }).what(),
               "top_k is 0, wanted 1 to 1000");
  options.top_k = 1;
  options.dense_weight = 1.5;
  EXPECT_STREQ(error_of([&] { retriever->search("x", options); }).what(),
               "dense_weight is 1.5, wanted 0 to 1");
  EXPECT_STREQ(error_of([] { parse_search_mode("fuzzy"); }).what(),
               "search mode \"fuzzy\" is unknown: use dense, lexical or hybrid");
  EXPECT_STREQ(error_of([] { parse_fusion("sum"); }).what(),
               "fusion \"sum\" is unknown: use min-max or rrf");
  EXPECT_EQ(parse_search_mode("dense"), SearchMode::kDense);
  EXPECT_EQ(parse_fusion("rrf"), Fusion::kRrf);
}

TEST_F(Search, EmptyIndexAndEmptyQueryGiveNoHits) {
  const auto retriever = open();
  for (const SearchMode mode : {SearchMode::kDense, SearchMode::kLexical, SearchMode::kHybrid}) {
    EXPECT_TRUE(retriever->search("cat", options_for(mode)).empty());
  }
  put_animals();
  EXPECT_TRUE(open()->search("?!", options_for(SearchMode::kLexical)).empty());
}

TEST(SearchErrors, MissingIndexIsNotFound) {
  EXPECT_EQ(error_of([] { Retriever::open("/nonexistent", letter_embedder()); }).code(),
            ErrorCode::kNotFound);
}

}  // namespace
}  // namespace quarry
