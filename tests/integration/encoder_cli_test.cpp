// DPR's two encoders and a cross-encoder from the command line, on the models of
// tests/golden/encoders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/json.h"
#include "tests/integration/program.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;

std::string model(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoders/" + name;
}

class EncoderCli : public ::testing::Test {
 protected:
  EncoderCli() : index_((folder_.path() / "x.idx").string()) {
    const std::string texts[] = {"the moon", "two people walk on the moon", "the sea is not full",
                                 "a river runs to the sea"};
    for (size_t i = 0; i < 4; ++i) {
      folder_.write("docs/" + std::to_string(i) + ".txt", texts[i] + "\n");
    }
  }
  void build() {
    const ProgramResult built =
        run_quarry({"index", "build", index_, (folder_.path() / "docs").string(), "--embedder",
                    model("dpr_context")});
    ASSERT_EQ(built.exit_code, 0) << built.errors;
  }
  std::vector<std::string> search(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {
        "search", index_, "who walked on the moon?", "--embedder", model("dpr_context"), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static Json json_of(const std::vector<std::string>& arguments) {
    const ProgramResult result = run_quarry(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    return parse_json(result.output, "search", ErrorCode::kInternal);
  }

  TemporaryFolder folder_;
  std::string index_;
};

TEST_F(EncoderCli, QuestionsHaveAnEncoderOfTheirOwn) {
  build();
  const Json same = json_of(search({"--mode", "dense"}));
  const Json own = json_of(search({"--mode", "dense", "--query-encoder", model("dpr_question")}));
  ASSERT_EQ(own.at("data").size(), 4U);
  EXPECT_NE(own.at("data")[0].at("dense_score"), same.at("data")[0].at("dense_score"));
  const ProgramResult other =
      run_quarry(search({"--mode", "dense", "--query-encoder", model("dpr_projected")}));
  EXPECT_NE(other.exit_code, 0);
  EXPECT_THAT(other.errors, HasSubstr("the query encoder dpr_projected makes 12-d vectors, the "
                                      "embedder dpr_context 16-d ones"));
}

TEST_F(EncoderCli, AnIndexFindsItsEmbeddersFolderAgain) {
  build();
  const Json hits =
      json_of({"search", index_, "who walked on the moon?", "--mode", "dense", "--json"});
  EXPECT_EQ(hits.at("data").size(), 4U);
  folder_.write("more/5.txt", "a boat sails on the sea\n");
  const ProgramResult added =
      run_quarry({"index", "add", index_, (folder_.path() / "more").string()});
  EXPECT_EQ(added.exit_code, 0) << added.errors;
  const std::string again = (folder_.path() / "again.idx").string();
  const ProgramResult anew = run_quarry({"index", "reembed", index_, again});
  EXPECT_EQ(anew.exit_code, 0) << anew.errors;
  EXPECT_EQ(json_of({"index", "info", again, "--json"}).at("embedder_path"), model("dpr_context"));
}

TEST_F(EncoderCli, AnIndexWhoseVectorsHaveAnyLengthIsSound) {
  build();
  const ProgramResult verified = run_quarry({"index", "verify", index_});
  EXPECT_EQ(verified.exit_code, 0) << verified.output << verified.errors;
}

TEST_F(EncoderCli, RerankOrdersByItsScores) {
  build();
  const std::vector<std::string> rerank = {"--rerank", model("bert_rerank"), "--top-k", "3"};
  const Json json = json_of(search(rerank));
  const Json& hits = json.at("data");
  ASSERT_EQ(hits.size(), 3U);
  for (size_t i = 0; i < hits.size(); ++i) {
    EXPECT_EQ(hits[i].at("score"), hits[i].at("rerank_score"));
    EXPECT_TRUE(hits[i].at("dense_score").is_number());
    EXPECT_LE(hits[i].at("score"), hits[i == 0 ? 0 : i - 1].at("score"));
  }
  // By transformers' logits of the same passages this one is the best, by a wide margin.
  EXPECT_EQ(hits[0].at("quote"), "the sea is not full");
  EXPECT_TRUE(json_of(search({})).at("data")[0].at("rerank_score").is_null());

  const ProgramResult wrong = run_quarry(search({"--rerank", model("bert_sequence")}));
  EXPECT_NE(wrong.exit_code, 0);
  EXPECT_THAT(wrong.errors, HasSubstr("a reranker is a sequence classifier with one"));

  const ProgramResult alone = run_quarry(search({"--rerank-adapter", "some-run/last"}));
  EXPECT_NE(alone.exit_code, 0);
  EXPECT_THAT(alone.errors, HasSubstr("some-run/last: wanted --rerank, the model it is for"));
}

TEST_F(EncoderCli, EvaluationReranks) {
  build();
  const std::string questions =
      folder_
          .write(
              "questions.jsonl",
              "{\"id\": \"1\", \"question\": \"who walked on the moon?\", \"passage\": \"the sea "
              "is not full\"}\n")
          .string();
  const std::vector<std::string> plain = {"eval",       "retrieval",          index_,  questions,
                                          "--embedder", model("dpr_context"), "--json"};
  std::vector<std::string> reranked = plain;
  reranked.insert(reranked.end(), {"--rerank", model("bert_rerank")});
  EXPECT_EQ(json_of(reranked).at("metrics").at("R@1").at("mean"), 1.0);
  EXPECT_EQ(json_of(plain).at("metrics").at("R@20").at("mean"), 1.0);
}

}  // namespace
}  // namespace quarry::testing
