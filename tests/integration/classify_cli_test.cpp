// `quarry classify` with what `quarry finetune --recipe classification` left.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "data/core/json.h"
#include "tests/integration/program.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;

class ClassifyCli : public ::testing::Test {
 protected:
  ClassifyCli() : model_(write_tiny_bert_folder(folder_.path() / "bert", 3)) {
    std::string rows;
    for (int i = 0; i < 60; ++i) {
      const bool late = i % 2 != 0;
      std::string text;
      for (int letter = 0; letter < 6; ++letter) {
        text += static_cast<char>((late ? 'n' : 'a') + (i * 7 + letter * 5) % 13);
      }
      rows += R"({"id": "r)" + std::to_string(i) + R"(", "text": ")" + text + R"(", "label": ")" +
              (late ? "late" : "early") + "\"}\n";
    }
    folder_.write("rows.jsonl", rows);
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  void train() const {
    const ProgramResult trained =
        run_quarry({"finetune", "--recipe", "classification", "--model", model_.string(), "--train",
                    path("rows.jsonl"), "--epochs", "8", "--learning-rate", "3e-3", "--rank", "4",
                    "--eval", path("rows.jsonl"), "--out", path("run"), "--json"});
    ASSERT_EQ(trained.exit_code, 0) << trained.errors;
  }
  ProgramResult classify(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {"classify", "--model", model_.string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_quarry(arguments);
  }

  TemporaryFolder folder_;
  std::filesystem::path model_;
};

TEST_F(ClassifyCli, ATunedClassifierLabelsTextsAndRows) {
  train();
  const std::string adapter = path("run/last");
  const ProgramResult lines = classify({"--adapter", adapter, "abcdef", "nopqrs"});
  ASSERT_EQ(lines.exit_code, 0) << lines.errors;
  EXPECT_THAT(lines.output, HasSubstr("early\tearly=0."));
  EXPECT_THAT(lines.output, HasSubstr("\tabcdef\nlate\tearly=0."));
  EXPECT_THAT(lines.output, HasSubstr("\tnopqrs\n"));

  const ProgramResult rows =
      classify({"--adapter", adapter, "--input", path("rows.jsonl"), "--json"});
  ASSERT_EQ(rows.exit_code, 0) << rows.errors;
  const Json json = parse_json(rows.output, "classify", ErrorCode::kInternal);
  ASSERT_EQ(json.at("results").size(), 60u);
  EXPECT_GE(json.at("accuracy").get<double>(), 0.95);
  const Json& first = json.at("results")[0];
  EXPECT_EQ(first.at("id"), "r0");
  EXPECT_EQ(first.at("label"), "early");
  const Json& probabilities = first.at("probabilities");
  EXPECT_NEAR(probabilities.at("early").get<double>() + probabilities.at("late").get<double>(), 1.0,
              1e-9);

  // What others trained notes no labels: they are counted.
  std::filesystem::remove(folder_.path() / "run/last/quarry_adapter.json");
  EXPECT_THAT(classify({"--adapter", adapter, "abcdef"}).output, HasSubstr("LABEL_0\tLABEL_0=0."));
}

TEST_F(ClassifyCli, SaysWhatIsMissing) {
  EXPECT_THAT(classify({}).errors, HasSubstr("wanted TEXT or --input FILE, one of them"));
  EXPECT_THAT(classify({"a", "b", "--second", "c"}).errors,
              HasSubstr("--second goes with one TEXT"));
  const ProgramResult headless = classify({"a"});
  EXPECT_EQ(headless.exit_code, 2);
  EXPECT_THAT(headless.errors, HasSubstr("BertModel"));
}

// Probabilities of transformers' logits, by a model with a head of its own.
TEST_F(ClassifyCli, AModelsOwnHeadNeedsNoAdapter) {
  const std::filesystem::path golden =
      std::filesystem::path(QUARRY_SOURCE_DIR) / "tests/golden/encoders/bert_sequence";
  const Json expected = read_json_file(golden / "golden.json");
  const Json& texts = expected.at("inputs")[1];
  const ProgramResult result =
      run_quarry({"classify", "--model", golden.string(), texts[0].get<std::string>(), "--second",
                  texts[1].get<std::string>(), "--json", "--precision", "exact"});
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const Json json = parse_json(result.output, "classify", ErrorCode::kInternal);
  EXPECT_FALSE(json.contains("accuracy"));
  double sum = 0.0;
  for (const Json& logit : expected.at("logits")[1]) sum += std::exp(logit.get<double>());
  const Json& probabilities = json.at("results")[0].at("probabilities");
  size_t column = 0;
  for (const char* label : {"no", "maybe", "yes"}) {
    const double wanted = std::exp(expected.at("logits")[1][column++].get<double>()) / sum;
    EXPECT_NEAR(probabilities.at(label).get<double>(), wanted, 1e-5) << label;
  }
  EXPECT_EQ(json.at("results")[0].at("label"), "no");
}

}  // namespace
}  // namespace quarry::testing
