// quarry adapter on the golden models, as a user would type it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/json.h"
#include "tests/integration/program.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kModel = QUARRY_SOURCE_DIR "/tests/golden/models/llama";
const std::string kAdapters = QUARRY_SOURCE_DIR "/tests/golden/peft";

std::string greedy_text(const std::string& model, const std::string& adapter) {
  std::vector<std::string> arguments = {"generate", "The quick brown", "--model",
                                        model,      "--max-tokens",    "24",
                                        "--raw",    "--precision",     "exact"};
  if (!adapter.empty()) arguments.insert(arguments.end(), {"--adapter", adapter});
  const ProgramResult result = run_quarry(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  return result.output;
}

TEST(AdapterCommand, ListsAndDescribes) {
  const ProgramResult list = run_quarry({"adapter", "ls", kAdapters});
  EXPECT_EQ(list.exit_code, 0);
  for (const char* name : {"q_v", "all_linear", "rslora", "patterns"}) {
    EXPECT_THAT(list.output, HasSubstr(name));
  }
  const ProgramResult json = run_quarry({"adapter", "ls", kAdapters, "--json"});
  EXPECT_EQ(Json::parse(json.output).size(), 12u);

  const ProgramResult info =
      run_quarry({"adapter", "info", kAdapters + "/rslora", "--model", kModel});
  EXPECT_EQ(info.exit_code, 0);
  EXPECT_THAT(info.output, HasSubstr("8, 4, rsLoRA"));
  EXPECT_THAT(info.output, HasSubstr("trainable params: 3,072 || all params: 27,808"));
  EXPECT_THAT(info.errors, IsEmpty());
  const Json described = Json::parse(
      run_quarry({"adapter", "info", kAdapters + "/q_v", "--model", kModel, "--json"}).output);
  EXPECT_EQ(described["target_modules"], Json({"q_proj", "v_proj"}));
  EXPECT_EQ(described["model"]["trainable_parameters"], 896);
  EXPECT_EQ(described["model"]["base"], "unknown");
}

TEST(AdapterCommand, AMergedModelWritesTheTextsOfBaseAndAdapter) {
  const TemporaryFolder folder;
  const std::string adapter = kAdapters + "/patterns";
  const std::string merged = (folder.path() / "merged").string();
  const ProgramResult result = run_quarry({"adapter", "merge", kModel, adapter, merged});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.errors, HasSubstr("merged 6 tensors"));
  const std::string wanted = greedy_text(kModel, adapter);
  EXPECT_EQ(greedy_text(merged, ""), wanted);
  EXPECT_NE(greedy_text(kModel, ""), wanted);
  const ProgramResult again = run_quarry({"adapter", "merge", kModel, adapter, merged});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_THAT(again.errors, HasSubstr("is there already"));
}

TEST(AdapterCommand, ConvertsThereAndBack) {
  const TemporaryFolder folder;
  const std::string gguf = (folder.path() / "a.gguf").string();
  const std::string back = (folder.path() / "a").string();
  const std::string original = kAdapters + "/rslora";
  EXPECT_EQ(run_quarry({"adapter", "convert", original, gguf, "--model", kModel}).exit_code, 0);
  EXPECT_EQ(run_quarry({"adapter", "convert", gguf, back, "--model", kModel}).exit_code, 0);
  EXPECT_EQ(greedy_text(kModel, back), greedy_text(kModel, original));
  EXPECT_EQ(run_quarry({"adapter", "convert", gguf, back, "--model", kModel}).exit_code, 2);
  const ProgramResult same = run_quarry(
      {"adapter", "convert", original, (folder.path() / "b").string(), "--model", kModel});
  EXPECT_EQ(same.exit_code, 2);
  EXPECT_THAT(same.errors, HasSubstr("convert makes a .gguf of a PEFT folder"));
}

TEST(AdapterCommand, MistakesHaveTheirExitStatus) {
  const TemporaryFolder folder;
  EXPECT_EQ(run_quarry({"adapter", "info", "no-such-adapter"}).exit_code, 3);
  EXPECT_EQ(run_quarry({"adapter", "ls", (folder.path() / "absent").string()}).exit_code, 3);
  EXPECT_EQ(run_quarry({"adapter", "merge", kModel, kAdapters + "/q_v", "out", "--type", "q4_0"})
                .exit_code,
            2);
  EXPECT_EQ(run_quarry({"adapter"}).exit_code, 2);
  folder.write("broken/adapter_config.json", "{");
  const ProgramResult broken = run_quarry({"adapter", "info", (folder.path() / "broken").string()});
  EXPECT_EQ(broken.exit_code, 5);
  EXPECT_THAT(broken.errors, HasSubstr("adapter_config.json"));
}

}  // namespace
}  // namespace quarry::testing
