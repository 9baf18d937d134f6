#include "data/datasets/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "data/core/error.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class Dataset : public ::testing::Test {
 protected:
  Dataset() {
    std::string name = (fs::temp_directory_path() / "quarry-dataset-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Dataset() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  // The message of the error that reading ends in.
  std::string failure(const std::string& reader, const fs::path& path, ErrorCode code,
                      const fs::path& qrels = {}) {
    try {
      read_dataset(reader, {path, qrels});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "no error";
  }

  fs::path folder_;
};

TEST_F(Dataset, SquadLinesAreReadFromAFolderInFileOrder) {
  write("set/dev.questions.01.jsonl",
        "{\"qid\": \"b\", \"pid\": \"p2\", \"question\": \"Who?\", \"answers\": [\"X\"]}\n");
  write("set/dev.questions.00.jsonl",
        "\xEF\xBB\xBF{\"qid\": 7, \"pid\": \"p1\", \"question\": \"When?\", \"answers\": "
        "[\"1973\", \"in 1973\"]}\r\n\n");
  write("set/dev.passages.jsonl", "{\"pid\": \"p1\", \"text\": \"...\"}\n");
  const auto examples = read_dataset("auto", {folder_ / "set", {}});
  ASSERT_EQ(examples.size(), 2U);
  EXPECT_EQ(examples[0].qid, "7");
  EXPECT_THAT(examples[0].answers, ElementsAre("1973", "in 1973"));
  EXPECT_THAT(examples[0].gold_ids, ElementsAre(Pair("p1", 1.0)));
  EXPECT_EQ(examples[1].question, "Who?");
}

TEST_F(Dataset, OfficialSquadJsonKeepsContextAndDistinctAnswers) {
  const fs::path path = write("dev.json", R"({"version": "1.1", "data": [{"title": "Oil_crisis",
    "paragraphs": [{"context": "It began in 1973.", "qas": [{"id": "q1", "question": "When?",
    "answers": [{"text": "1973", "answer_start": 12}, {"text": "1973", "answer_start": 12}]}]}]}]})");
  const auto examples = read_dataset("auto", {path, {}});
  ASSERT_EQ(examples.size(), 1U);
  EXPECT_EQ(examples[0].gold_title, "Oil crisis");
  EXPECT_EQ(examples[0].gold_text, "It began in 1973.");
  EXPECT_THAT(examples[0].answers, ElementsAre("1973"));
}

TEST_F(Dataset, OfficialSquadJsonOfAnotherShapeIsRefused) {
  const fs::path path =
      write("dev.json", R"({"data": [{"title": "T", "paragraphs": [{"qas": []}]}]})");
  EXPECT_EQ(failure("squad", path, ErrorCode::kCorruptData),
            path.string() + ": article 1: no field \"context\"");
}

TEST_F(Dataset, NqGoldCarriesThePassage) {
  const fs::path path = write("nq.jsonl",
                              "{\"qid\": \"u1\", \"question\": \"who\", \"answers\": [\"C\"], "
                              "\"title\": \"T\", \"passage\": \"C did.\"}");
  const auto examples = read_dataset("auto", {path, {}});
  ASSERT_EQ(examples.size(), 1U);
  EXPECT_EQ(examples[0].gold_text, "C did.");
  EXPECT_EQ(examples[0].gold_title, "T");
}

TEST_F(Dataset, BeirFolderJoinsQueriesAndJudgements) {
  write("beir/queries.jsonl",
        "{\"_id\": \"1\", \"text\": \"claim one\"}\n"
        "{\"_id\": \"2\", \"text\": \"not judged\"}\n");
  write("beir/qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\td9\t2\n1\td3\t0\n");
  const auto examples = read_dataset("auto", {folder_ / "beir", {}});
  ASSERT_EQ(examples.size(), 1U);
  EXPECT_EQ(examples[0].question, "claim one");
  EXPECT_THAT(examples[0].gold_ids, ElementsAre(Pair("d3", 0.0), Pair("d9", 2.0)));
}

TEST_F(Dataset, BeirTakesTsvQueriesAndTrecJudgements) {
  const fs::path queries = write("q.tsv", "1\t0-dimensional biomaterials\n3\tgenomes\n");
  const fs::path qrels = write("q.qrels", "3 0 14717500 1\n1 0 31715818 1\n");
  const auto examples = read_dataset("auto", {queries, qrels});
  ASSERT_EQ(examples.size(), 2U);
  EXPECT_EQ(examples[0].qid, "1");
  EXPECT_THAT(examples[1].gold_ids, ElementsAre(Pair("14717500", 1.0)));
}

TEST_F(Dataset, BadJudgementNamesFileAndLine) {
  const fs::path queries = write("q.tsv", "1\tx\n");
  const fs::path qrels = write("q.qrels", "1 0 d1 1\n1 0 d2 high\n");
  EXPECT_EQ(failure("beir", queries, ErrorCode::kCorruptData, qrels),
            qrels.string() + ":2: score is \"high\", wanted a number");
}

TEST_F(Dataset, GenericLinesTakeOtherFieldNamesAndNumberRows) {
  const fs::path path = write("own.jsonl",
                              "{\"query\": \"q one\", \"answer\": \"a\"}\n"
                              "{\"query\": \"q two\", \"gold_ids\": [\"x\", 5]}\n");
  const auto examples = read_dataset("auto", {path, {}});
  ASSERT_EQ(examples.size(), 2U);
  EXPECT_EQ(examples[0].qid, "1");
  EXPECT_THAT(examples[0].answers, ElementsAre("a"));
  EXPECT_THAT(examples[1].gold_ids, ElementsAre(Pair("5", 1.0), Pair("x", 1.0)));
}

TEST_F(Dataset, CsvFieldsMayHoldQuotesSeparatorsAndLineEnds) {
  const fs::path path = write("own.csv",
                              "question,answers,qid\r\n"
                              "\"Who said \"\"hi\"\",\nand when?\",Ann|Bob,k1\r\n");
  const auto examples = read_dataset("auto", {path, {}});
  ASSERT_EQ(examples.size(), 1U);
  EXPECT_EQ(examples[0].question, "Who said \"hi\",\nand when?");
  EXPECT_THAT(examples[0].answers, ElementsAre("Ann", "Bob"));
  EXPECT_EQ(examples[0].qid, "k1");
}

TEST_F(Dataset, CsvProblemsNameFileAndLine) {
  const fs::path ragged = write("a.csv", "question,qid\nq\n");
  EXPECT_EQ(failure("csv", ragged, ErrorCode::kCorruptData),
            ragged.string() + ":2: found 1 fields, the header has 2");
  const fs::path headless = write("b.csv", "a,b\nq,r\n");
  EXPECT_EQ(failure("csv", headless, ErrorCode::kCorruptData),
            headless.string() + ":1: no column \"question\" in the header");
  const fs::path open_quote = write("c.csv", "question\n\"never closed\n");
  EXPECT_EQ(failure("csv", open_quote, ErrorCode::kCorruptData),
            open_quote.string() + ":2: the file ends inside a quoted field");
}

TEST_F(Dataset, BadLineNamesFileLineAndField) {
  const fs::path path = write("q.jsonl",
                              "{\"qid\": \"1\", \"pid\": \"p\", \"question\": \"x\"}\n"
                              "{\"qid\": \"2\", \"pid\": \"p\", \"question\": [1]}\n");
  EXPECT_EQ(failure("squad", path, ErrorCode::kCorruptData),
            path.string() + ":2: \"question\" is array, wanted text");
  const fs::path cut = write("cut.jsonl", "{\"qid\": \"1\", \"qu");
  EXPECT_THAT(failure("jsonl", cut, ErrorCode::kCorruptData), HasSubstr("cut.jsonl:1"));
  const fs::path list = write("list.jsonl", "[1]\n");
  EXPECT_EQ(failure("jsonl", list, ErrorCode::kCorruptData),
            list.string() + ":1: found array, wanted an object");
}

TEST_F(Dataset, InvalidUtf8IsRefusedWithItsLine) {
  for (const char* bad : {"\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82"}) {
    const fs::path path = write("bad.csv", std::string("question\nok\n") + bad + "\n");
    EXPECT_THAT(failure("csv", path, ErrorCode::kCorruptData), HasSubstr(":3: byte 1 is 0x"));
  }
}

TEST_F(Dataset, EmptySetRepeatedIdAndUnknownNameAreRefused) {
  const fs::path empty = write("empty.jsonl", "\n");
  EXPECT_EQ(failure("jsonl", empty, ErrorCode::kInvalidArgument),
            empty.string() + ": no question in this set (read as jsonl)");
  const fs::path twice = write("twice.jsonl",
                               "{\"id\": \"a\", \"question\": \"x\"}\n"
                               "{\"id\": \"a\", \"question\": \"y\"}\n");
  EXPECT_EQ(failure("jsonl", twice, ErrorCode::kInvalidArgument),
            twice.string() + ": question id \"a\" is there twice");
  EXPECT_EQ(failure("trivia", twice, ErrorCode::kInvalidArgument),
            "dataset \"trivia\" is unknown: use one of auto, squad, nq-gold, beir, jsonl, csv");
  EXPECT_EQ(failure("auto", folder_ / "none", ErrorCode::kNotFound),
            (folder_ / "none").string() + ": no such file or folder");
}

TEST(SharedData, CountsAreThePublishedOnes) {
  const fs::path data = fs::path(QUARRY_SOURCE_DIR) / "../shared/data";
  if (!fs::exists(data / "squad11")) GTEST_SKIP() << "no " << data << " on this machine";
  EXPECT_EQ(read_dataset("auto", {data / "squad11/dev.questions.jsonl", {}}).size(), 10570U);
  EXPECT_EQ(read_dataset("auto", {data / "scifact", {}}).size(), 300U);
  EXPECT_EQ(read_dataset("auto", {data / "nq-gold/train.uda.jsonl", {}}).size(), 2477U);
}

}  // namespace
}  // namespace quarry
