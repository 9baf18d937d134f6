// The program's surface: help, usage errors, exit statuses, commands that need no model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/json.h"
#include "tests/integration/program.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Cli, WithoutArgumentsShowsHelpAndExits2) {
  const ProgramResult result = run_quarry({});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("quarry index build"));
}

TEST(Cli, EverySubcommandHasHelpOnStandardOutput) {
  const std::vector<std::vector<std::string>> commands = {
      {"index"},
      {"index", "build"},
      {"index", "add"},
      {"index", "rm"},
      {"index", "info"},
      {"index", "verify"},
      {"search"},
      {"ask"},
      {"generate"},
      {"serve"},
      {"eval"},
      {"eval", "retrieval"},
      {"eval", "answers"},
      {"model"},
      {"model", "ls"},
      {"model", "info"},
      {"model", "estimate"},
      {"doctor"},
      {"completion"},
  };
  for (std::vector<std::string> command : commands) {
    command.emplace_back("--help");
    const ProgramResult result = run_quarry(command);
    EXPECT_EQ(result.exit_code, 0) << command[0];
    EXPECT_THAT(result.output, HasSubstr("Usage")) << command[0];
    EXPECT_THAT(result.errors, IsEmpty()) << command[0];
  }
}

TEST(Cli, MistypedCommandIsCorrected) {
  const ProgramResult result = run_quarry({"indx"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("unknown command or argument 'indx'"));
  EXPECT_THAT(result.errors, HasSubstr("did you mean 'index'?"));
}

TEST(Cli, MistypedFlagIsCorrected) {
  const ProgramResult result = run_quarry({"search", "some.idx", "words", "--topk", "3"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("unknown flag '--topk' for quarry search"));
  EXPECT_THAT(result.errors, HasSubstr("did you mean '--top-k'?"));
}

TEST(Cli, BadValuesAreUsageErrors) {
  EXPECT_EQ(run_quarry({"search", "i", "q", "--top-k", "0"}).exit_code, 2);
  EXPECT_EQ(run_quarry({"search", "i", "q", "--mode", "psychic"}).exit_code, 2);
  EXPECT_EQ(run_quarry({"generate", "x", "--max-tokens", "-4"}).exit_code, 2);
}

TEST(Cli, MissingModelExits3AndNamesIt) {
  const ProgramResult result = run_quarry({"model", "info", "no-such-model"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("no-such-model"));
}

TEST(Cli, MissingIndexExits3AndNamesIt) {
  const ProgramResult result =
      run_quarry({"search", "/nonexistent/x.idx", "q", "--mode", "lexical"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("/nonexistent/x.idx"));
}

TEST(Cli, MistakesThatWouldLookLikeAnIndexAreRefused) {
  const TemporaryFolder folder;
  const std::string notes = (folder.path() / "notes").string();
  const std::string index = (folder.path() / "x.idx").string();
  const std::string file = folder.write("notes/a.txt", "the moon\n").string();
  const auto refuse = [&](const std::vector<std::string>& places, int status,
                          const std::string& message) {
    std::vector<std::string> arguments = {"index", "build"};
    arguments.insert(arguments.end(), places.begin(), places.end());
    const ProgramResult result = run_quarry(arguments);
    EXPECT_EQ(result.exit_code, status) << result.errors;
    EXPECT_THAT(result.errors, HasSubstr(message));
  };
  refuse({file, notes}, 2, "is a file, wanted the folder of an index");
  refuse({notes, notes}, 2, "holds other files and no index");
  refuse({index, notes + "/absent"}, 3, "no such file or folder");
  EXPECT_FALSE(std::filesystem::exists(index));
  folder.write("x.idx/quarry.db", "");
  refuse({(folder.path() / "y.idx").string(), index}, 2, "the index is named first");
  const std::string slip = (folder.path() / "z.idx").string();
  const ProgramResult added = run_quarry({"index", "add", slip, notes});
  EXPECT_EQ(added.exit_code, 3);
  EXPECT_THAT(added.errors, HasSubstr("z.idx: no index there; `quarry index build` makes one"));
  EXPECT_FALSE(std::filesystem::exists(slip));
}

TEST(Cli, ModelListIsValidJsonEvenWhenEmpty) {
  const TemporaryFolder home;
  const ProgramResult result =
      run_quarry({"model", "ls", "--json"}, {"QUARRY_HOME=" + home.path().string()});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(parse_json(result.output, "model ls", ErrorCode::kInternal), Json::array());
}

TEST(Cli, ModelEstimateAddsUpAndNamesTheContext) {
  const std::string model = QUARRY_SOURCE_DIR "/tests/golden/models/llama";
  const ProgramResult result =
      run_quarry({"model", "estimate", model, "--tokens", "64", "--sequences", "2", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  const Json json = parse_json(result.output, "model estimate", ErrorCode::kInternal);
  int64_t sum = 0;
  for (const char* part : {"weight_bytes", "cache_bytes", "step_bytes", "program_bytes"}) {
    EXPECT_GT(json[part].get<int64_t>(), 0) << part;
    sum += json[part].get<int64_t>();
  }
  EXPECT_EQ(json["total_bytes"], sum);
  const ProgramResult refused = run_quarry({"model", "estimate", model, "--tokens", "100000"});
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_THAT(refused.errors, HasSubstr("100000 tokens a sequence, the context is"));
}

TEST(Cli, AnAnswerIsHeldToASchemaOrAPatternNotBoth) {
  const ProgramResult result =
      run_quarry({"generate", "x", "--json-schema", "a.json", "--regex", "a"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.errors, HasSubstr("--json-schema excludes --regex"));
}

TEST(Cli, DoctorReportsTheCpuLevelInForce) {
  const ProgramResult result = run_quarry({"doctor", "--json"}, {"QUARRY_CPU_ISA=portable"});
  const Json report = parse_json(result.output, "doctor", ErrorCode::kInternal);
  EXPECT_EQ(report.at(0).at("check"), "cpu");
  EXPECT_EQ(report.at(0).at("value"), "portable");
}

TEST(Cli, BashCompletionIsAScriptThatBashAccepts) {
  const ProgramResult result = run_quarry({"completion", "bash"});
  ASSERT_EQ(result.exit_code, 0);
  const TemporaryFolder folder;
  const std::string script = folder.write("completion.bash", result.output).string();
  const std::string command = "bash -c 'source " + script +
                              "; COMP_WORDS=(quarry index b); COMP_CWORD=2; _quarry; "
                              "[ \"${COMPREPLY[0]}\" = build ]'";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(Cli, HelpTopicListsExitCodes) {
  const ProgramResult result = run_quarry({"help", "exit-codes"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("130"));
}

TEST(Cli, HelpAloneListsTheCommands) {
  const ProgramResult result = run_quarry({"help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("quarry index build"));
}

}  // namespace
}  // namespace quarry::testing
