// What `--json` promises: standard output is one JSON document, or nothing when a command fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/json.h"
#include "tests/integration/program.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Words = std::vector<std::string>;

const std::string kGolden = QUARRY_SOURCE_DIR "/tests/golden";
const std::string kEncoder = kGolden + "/encoders/bert_questions";

class JsonCli : public ::testing::Test {
 protected:
  JsonCli() : model_(write_tiny_llama_gguf(folder_.path(), 3).string()) {
    std::string rows;
    for (int i = 0; i < 8; ++i) {
      const std::string place = "Place " + std::to_string(i);
      rows += R"({"question": "Where is )" + place + R"(?", "answer": "North", "context": ")" +
              place + R"( lies in the north."})" + "\n";
    }
    folder_.write("rows.jsonl", rows);
    folder_.write("docs/a.txt", "two people walk on the moon\n");
    folder_.write("docs/b.bin", std::string("\0\1\2", 3));
    folder_.write("questions.jsonl",
                  R"({"id": "1", "question": "moon?", "answers": ["x"], "gold_ids": ["a.txt"]})"
                  "\n");
    folder_.write("answers.json", R"({"1": "x"})");
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  Json json_of(Words words) const {
    words.emplace_back("--json");
    const ProgramResult result = run_quarry(words);
    EXPECT_EQ(result.exit_code, 0) << words[0] << ": " << result.errors;
    const Json json = Json::parse(result.output, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << words[0] << " printed " << result.output;
    return json;
  }

  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(JsonCli, InfoCountsDocumentsOfAnAssumedCharset) {
  folder_.write("docs/latin.txt", "caf\xe9 and a longer text around it\n");
  const std::string index = path("x.idx");
  json_of({"index", "build", index, path("docs"), "--embedder", kEncoder});
  const Json info = json_of({"index", "info", index});
  EXPECT_EQ(info.at("documents"), 2);
  EXPECT_EQ(info.at("assumed_charset"), 1);
}

TEST_F(JsonCli, EveryCommandPrintsOneDocument) {
  const std::string index = path("x.idx");
  json_of({"index", "build", index, path("docs"), "--embedder", kEncoder});
  json_of({"index", "add", index, path("docs")});
  json_of({"index", "info", index});
  json_of({"index", "verify", index});
  json_of({"index", "reembed", index, path("y.idx"), "--embedder", kEncoder});
  json_of({"search", index, "moon"});
  json_of({"ask", index, "moon?", "--model", model_, "--max-tokens", "4", "--min-relevance", "0"});
  json_of({"generate", "moon", "--model", model_, "--max-tokens", "4"});
  json_of({"classify", "--model", kGolden + "/encoders/bert_sequence", "moon"});
  json_of({"eval", "retrieval", index, path("questions.jsonl")});
  json_of({"eval", "answers", path("questions.jsonl"), "--predictions", path("answers.json")});
  json_of({"model", "ls"});
  json_of({"model", "info", model_});
  json_of({"model", "estimate", model_});
  json_of({"model", "quantize", model_, "--to", "q8_0", "--out", path("q8.gguf")});
  json_of({"adapter", "ls", kGolden + "/peft"});
  json_of({"adapter", "info", kGolden + "/peft/q_v"});
  json_of({"finetune", "estimate", "--config", kGolden + "/models/llama"});
  EXPECT_TRUE(Json::accept(
      run_quarry({"finetune", "--json", "estimate", "--config", kGolden + "/models/llama"})
          .output));
  json_of({"index", "rm", index, path("docs/a.txt")});
}

TEST_F(JsonCli, ADryRunIsOneDocumentWithItsConfiguration) {
  const Json plan = json_of({"finetune", "--train", path("rows.jsonl"), "--model", model_, "--set",
                             "adapter.target_modules=q_proj,v_proj", "--dry-run"});
  EXPECT_EQ(plan.at("config").at("model").at("path"), model_);
  EXPECT_EQ(plan.at("config").at("data").at("train"), Json::array({path("rows.jsonl")}));
  EXPECT_EQ(plan.at("config").at("adapter").at("r"), 16);
  EXPECT_EQ(plan.at("config").at("adapter").at("use_rslora"), false);
  EXPECT_EQ(plan.at("config").at("adapter").at("target_modules"), Json({"q_proj", "v_proj"}));
  EXPECT_EQ(plan.at("rows"), 8);
  EXPECT_GT(plan.at("steps").get<int64_t>(), 0);
  EXPECT_GT(plan.at("memory").at("total_bytes").get<int64_t>(),
            plan.at("memory").at("base_bytes").get<int64_t>());
  EXPECT_FALSE(plan.at("examples").empty());
  const Json fields = json_of({"finetune", "--fields"});
  EXPECT_EQ(fields.at(0).at("name"), "recipe");
}

TEST_F(JsonCli, ErrorsLeaveStandardOutputEmpty) {
  const Words failing[] = {
      {"search", path("absent.idx"), "q"},
      {"ask", path("absent.idx"), "q"},
      {"generate", "q", "--model", path("absent.gguf")},
      {"index", "build", path("rows.jsonl"), path("docs")},
      {"index", "rm", path("absent.idx"), "x"},
      {"index", "info", path("absent.idx")},
      {"model", "info", "no-such-model"},
      {"adapter", "info", path("absent")},
      {"finetune", "--train", path("absent.jsonl"), "--dry-run"},
      {"finetune", "--train", path("rows.jsonl"), "--model", model_, "--set", "nonsense=1"},
      {"eval", "retrieval", path("absent.idx"), path("questions.jsonl")},
      {"search", "--no-such-flag"},
  };
  for (Words words : failing) {
    words.emplace_back("--json");
    const ProgramResult result = run_quarry(words);
    EXPECT_NE(result.exit_code, 0) << words[0];
    EXPECT_THAT(result.output, IsEmpty()) << words[0];
    EXPECT_THAT(result.errors, HasSubstr("error: ")) << words[0];
  }
}

}  // namespace
}  // namespace quarry::testing
