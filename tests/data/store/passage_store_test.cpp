#include "data/store/passage_store.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <limits>

#include "tests/data/store/store_fixture.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PassageStoreTest : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_ / "quarry.db"; }
  std::unique_ptr<PassageStore> create() const {
    return PassageStore::create(path(), test_manifest());
  }
  std::unique_ptr<PassageStore> open() const {
    return PassageStore::open(path(), PassageStore::Mode::kReadOnly);
  }

  TemporaryFolder folder_;
};

TEST_F(PassageStoreTest, WhatWasCommittedIsReadBack) {
  {
    auto store = create();
    store->begin();
    Document document = make_document("/a", "the quick fox\nlazy dogs");
    document.metadata = {{"author", "Ann"}, {"year", "1999"}};
    put(*store, document);
    store->commit();
  }
  const auto store = open();
  EXPECT_EQ(store->manifest().embedder_name, "fake");
  EXPECT_EQ(store->manifest().dim, kTestDim);
  EXPECT_TRUE(store->manifest().unit_length);
  EXPECT_EQ(store->manifest().format_version, 1);
  EXPECT_EQ(store->manifest().created_at.size(), std::string("2026-01-01T00:00:00Z").size());
  EXPECT_EQ(store->stats().documents, 1);
  EXPECT_EQ(store->stats().passages, 2);
  EXPECT_EQ(store->stats().generation, 1);
  const std::optional<Document> document = store->document("/a");
  ASSERT_TRUE(document.has_value());
  EXPECT_EQ(document->text, "the quick fox\nlazy dogs");
  EXPECT_EQ(document->metadata.at("author"), "Ann");
  const std::vector<Passage> passages = store->passages({2, 77, 1});
  ASSERT_EQ(passages.size(), 2U);
  EXPECT_EQ(passages[0].text, "lazy dogs");
  EXPECT_EQ(passages[0].start, 14);
  EXPECT_EQ(passages[0].document_uri, "/a");
  EXPECT_EQ(passages[0].metadata.at("year"), "1999");
  EXPECT_EQ(passages[1].text, "the quick fox");
  EXPECT_EQ(store->vectors({2, 1}), unit_vectors({2, 1}));
  EXPECT_THAT(store->verify(), IsEmpty());
}

TEST_F(PassageStoreTest, RollbackLeavesNothing) {
  auto store = create();
  store->begin();
  put(*store, make_document("/a", "one"));
  store->rollback();
  EXPECT_EQ(store->stats().documents, 0);
  EXPECT_EQ(store->stats().generation, 0);
  EXPECT_THAT(store->search_text("one", 5), IsEmpty());
  EXPECT_THAT(store->verify(), IsEmpty());
}

TEST_F(PassageStoreTest, ReaderSeesNothingBeforeCommit) {
  auto writer = create();
  const auto reader = open();
  writer->begin();
  put(*writer, make_document("/a", "one"));
  EXPECT_EQ(reader->stats().documents, 0);
  writer->commit();
  EXPECT_EQ(reader->stats().documents, 1);
  EXPECT_EQ(reader->search_text("one", 5).size(), 1U);
}

TEST_F(PassageStoreTest, ReplacingGivesNewIdsAndRecordsTheOld) {
  auto store = create();
  store->begin();
  put(*store, make_document("/a", "one\ntwo"));
  store->commit();
  store->begin();
  put(*store, make_document("/a", "three"));
  store->commit();
  EXPECT_EQ(store->stats().documents, 1);
  EXPECT_EQ(store->stats().passages, 1);
  EXPECT_EQ(store->stats().text_bytes, 5);
  EXPECT_THAT(store->passages({1, 2}), IsEmpty());
  EXPECT_EQ(store->passages({3}).at(0).text, "three");
  EXPECT_THAT(store->removed_since(1), ElementsAre(1, 2));
  EXPECT_THAT(store->removed_since(2), IsEmpty());
  EXPECT_THAT(store->search_text("one two", 5), IsEmpty());
  EXPECT_THAT(store->verify(), IsEmpty());
}

TEST_F(PassageStoreTest, IdsAreNotUsedAgainAfterRemoval) {
  {
    auto store = create();
    store->begin();
    put(*store, make_document("/a", "one"));
    store->commit();
    store->begin();
    EXPECT_TRUE(store->remove_document("/a"));
    EXPECT_FALSE(store->remove_document("/a"));
    store->commit();
  }
  auto store = PassageStore::open(path(), PassageStore::Mode::kReadWrite);
  store->begin();
  put(*store, make_document("/b", "two"));
  store->commit();
  EXPECT_EQ(store->search_text("two", 5).at(0).passage_id, 2);
  std::vector<int64_t> ids;
  store->for_each_vector(0, [&ids](int64_t id, const float*) { ids.push_back(id); });
  EXPECT_THAT(ids, ElementsAre(2));
}

TEST_F(PassageStoreTest, SearchRanksByBm25AndStems) {
  auto store = create();
  store->begin();
  put(*store, make_document("/a", "Cats chase mice.\nThe runners were running in the park.\nx"));
  store->commit();
  const auto hits = store->search_text("Who runs?", 10);
  ASSERT_EQ(hits.size(), 1U);
  EXPECT_EQ(hits[0].passage_id, 2);
  EXPECT_GT(hits[0].score, 0.0);
  EXPECT_EQ(store->search_text("title", 2).size(), 2U) << "titles are searched; limit holds";
}

// The formula of lexical_rank.h by hand: 4 passages, each of 3 title tokens and its own.
TEST_F(PassageStoreTest, SearchScoresAreBm25WithPairs) {
  auto store = create();
  store->begin();
  put(*store, make_document("/a", "red fox red\nfox red\nblue sky here\ngreen tree"));
  store->commit();
  const auto hits = store->search_text("red fox", 10);
  ASSERT_EQ(hits.size(), 2U);
  const double idf_word = std::log(1.0 + (4 - 2 + 0.5) / (2 + 0.5));
  const double idf_pair = std::log(1.0 + (4 - 1 + 0.5) / (1 + 0.5));
  const auto term = [](double count, double tokens) {
    const double average = (6 + 5 + 6 + 5) / 4.0;
    return count * 1.6 / (count + 0.6 * (0.4 + 0.6 * tokens / average));
  };
  EXPECT_EQ(hits[0].passage_id, 1);
  EXPECT_NEAR(hits[0].score, idf_word * (term(2, 6) + term(1, 6)) + 0.2 * idf_pair * term(1, 6),
              1e-9);
  EXPECT_NEAR(hits[1].score, idf_word * 2 * term(1, 5), 1e-9);
}

TEST_F(PassageStoreTest, SearchTakesOperatorsAsText) {
  auto store = create();
  store->begin();
  put(*store, make_document("/a", "plain words"));
  store->commit();
  for (const char* query : {"\"", "a AND", "NEAR(", "title: plain", "^*", "plain\" OR \"", "-words",
                            "{title}: x", "' ; DROP TABLE passages", "\xff\xfe"}) {
    EXPECT_NO_THROW(store->search_text(query, 5)) << query;
  }
  EXPECT_EQ(store->search_text("AND NOT plain", 5).size(), 1U);
  EXPECT_THAT(store->search_text(std::string("\0\0", 2), 5), IsEmpty());
}

TEST_F(PassageStoreTest, FilterMatchesEveryCondition) {
  auto store = create();
  store->begin();
  Document first = make_document("/docs/a", "one");
  first.metadata = {{"lang", "en"}, {"year", "1999"}};
  Document second = make_document("/docs/b", "two");
  second.metadata = {{"lang", "en"}, {"year", "2000"}};
  second.format = "html";
  put(*store, first);
  put(*store, second);
  put(*store, make_document("/docsx", "three"));
  store->commit();
  EXPECT_THAT(store->passages_where({}), ElementsAre(1, 2, 3));
  EXPECT_THAT(store->passages_where({{"lang", "en"}}), ElementsAre(1, 2));
  EXPECT_THAT(store->passages_where({{"lang", "en"}, {"year", "2000"}}), ElementsAre(2));
  EXPECT_THAT(store->passages_where({{"uri_prefix", "/docs/"}, {"format", "text"}}),
              ElementsAre(1));
  EXPECT_THAT(store->passages_where({{"lang", "' OR 1"}}), IsEmpty());
  EXPECT_EQ(store->documents_with("lang"), 2);
  EXPECT_EQ(store->documents_with("nothing"), 0);
}

TEST_F(PassageStoreTest, ListsDocumentsByPrefixInOrder) {
  auto store = create();
  store->begin();
  for (const char* uri : {"/b", "/a/2", "/a/1", "/a%", "/a0"}) put(*store, make_document(uri, "x"));
  store->put_setting("sources", "[]");
  store->commit();
  const auto documents = store->list_documents("/a/");
  ASSERT_EQ(documents.size(), 2U);
  EXPECT_EQ(documents[0].first, "/a/1");
  EXPECT_EQ(documents[0].second, "hash of x");
  EXPECT_EQ(store->list_documents("").size(), 5U);
  EXPECT_EQ(store->content_hash("/b"), "hash of x");
  EXPECT_EQ(store->content_hash("/c"), std::nullopt);
  EXPECT_EQ(store->setting("sources"), "[]");
  EXPECT_EQ(store->setting("other"), std::nullopt);
}

TEST_F(PassageStoreTest, SecondWriterIsRefusedByName) {
  const auto first = create();
  const Error error =
      error_of([this] { PassageStore::open(path(), PassageStore::Mode::kReadWrite); });
  EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  EXPECT_THAT(error.what(), HasSubstr(concat("process ", ::getpid(), " is writing")));
}

TEST_F(PassageStoreTest, CreateRefusesAnExistingFileAndAMissingFolder) {
  create();
  EXPECT_THAT(error_of([this] { create(); }).what(), HasSubstr("quarry.db: already there"));
  const Error error =
      error_of([this] { PassageStore::create(folder_ / "none" / "quarry.db", test_manifest()); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), HasSubstr("none: no such folder"));
}

TEST_F(PassageStoreTest, CreateClearsWhatAnInterruptedCreateLeft) {
  write_bytes(folder_ / "quarry.db.new", "half written");
  EXPECT_THAT(create()->verify(), IsEmpty());
}

TEST_F(PassageStoreTest, MisuseIsRefused) {
  auto store = create();
  EXPECT_THAT(error_of([&] { store->commit(); }).what(), HasSubstr("commit outside begin()"));
  EXPECT_THAT(error_of([&] { put(*store, make_document("/a", "x")); }).what(),
              HasSubstr("put_document outside begin()"));
  const auto reader = open();
  EXPECT_THAT(error_of([&] { reader->begin(); }).what(), HasSubstr("opened for reading only"));
  EXPECT_THAT(error_of([&] { reader->vectors({5}); }).what(), HasSubstr("no vector for passage 5"));
  Document document = make_document("/a", "some text");
  std::vector<Passage> passages = line_passages(document);
  passages[0].start = 1;
  store->begin();
  const std::vector<float> vector = unit_vectors({1});
  EXPECT_THAT(error_of([&] { store->put_document(document, passages, vector.data()); }).what(),
              HasSubstr("passage 0 is not the text at [1, 9) of 9 bytes"));
}

TEST_F(PassageStoreTest, ReadOnlyWorksWhereNothingCanBeWritten) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  {
    auto store = create();
    store->begin();
    put(*store, make_document("/a", "one"));
    store->commit();
  }
  namespace fs = std::filesystem;
  fs::permissions(folder_.path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(open()->search_text("one", 5).size(), 1U);
  fs::permissions(folder_.path(), fs::perms::owner_all);
}

TEST_F(PassageStoreTest, VectorsHaveTheLengthThatTheManifestSays) {
  StoreManifest manifest = test_manifest();
  manifest.unit_length = false;
  {
    auto store = PassageStore::create(path(), manifest);
    std::vector<float> vectors(3 * kTestDim, 2.0F);
    std::fill(vectors.begin() + kTestDim, vectors.begin() + 2 * kTestDim, 0.0F);
    vectors.back() = std::numeric_limits<float>::quiet_NaN();
    const Document document = make_document("/a", "long\nnothing\nno number");
    store->begin();
    store->put_document(document, line_passages(document), vectors.data());
    store->commit();
  }
  EXPECT_FALSE(open()->manifest().unit_length);
  EXPECT_THAT(open()->verify(),
              ElementsAre("vector of passage 2 has length 0, wanted one above 0",
                          "vector of passage 3 has length nan, wanted one above 0"));
}

TEST_F(PassageStoreTest, VerifyNamesWhatIsWrong) {
  {
    auto store = create();
    store->begin();
    put(*store, make_document("/a", "one\ntwo"));
    std::vector<float> vector(kTestDim, 0.5F);
    Document document = make_document("/b", "three");
    store->put_document(document, line_passages(document), vector.data());
    store->commit();
  }
  const std::string command = "sqlite3 '" + path().string() +
                              "' \"UPDATE passages SET text='tvo' WHERE id=2; DELETE FROM vectors "
                              "WHERE passage_id=1; UPDATE state SET documents=7\"";
  if (std::system(command.c_str()) != 0) GTEST_SKIP() << "the sqlite3 shell is not installed";
  const std::vector<std::string> problems = open()->verify();
  EXPECT_THAT(problems, ::testing::Contains(HasSubstr("documents: counted 7, found 2")));
  EXPECT_THAT(problems, ::testing::Contains(HasSubstr("1 passages without a vector")));
  EXPECT_THAT(problems, ::testing::Contains(HasSubstr("/a: passage 1 is not the text at [4, 7)")));
  EXPECT_THAT(problems, ::testing::Contains(HasSubstr("vector of passage 3 has length 1.41421")));
  EXPECT_THAT(problems, ::testing::Contains(HasSubstr("full text")));
}

}  // namespace
}  // namespace quarry
