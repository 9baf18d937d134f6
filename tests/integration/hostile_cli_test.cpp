// Command lines that are wrong in odd ways: one message, the right status, nothing half written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>

#include "data/core/error.h"
#include "tests/integration/program.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kEncoder = QUARRY_SOURCE_DIR "/tests/golden/encoders/bert_questions";

class HostileCli : public ::testing::Test {
 protected:
  HostileCli() : docs_(folder_.write("docs/a.txt", "the moon\n").parent_path().string()) {}
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  static void expect_refused(const std::vector<std::string>& arguments, int status,
                             const std::string& message) {
    const ProgramResult result = run_quarry(arguments);
    EXPECT_EQ(result.exit_code, status) << result.errors;
    EXPECT_THAT(result.errors, HasSubstr(message));
    EXPECT_THAT(result.errors, Not(HasSubstr("this looks like a bug")));
  }

  // Exit status of the program run by a shell; its standard error lies in errors().
  int run_in_shell(const std::string& arguments) const {
    const std::string command = "{ '" + program_path() + "' " + arguments + "; } 2>" + path("err");
    return WEXITSTATUS(std::system(command.c_str()));
  }
  std::string errors() const {
    std::ifstream file(path("err"));
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TemporaryFolder folder_;
  std::string docs_;
};

TEST_F(HostileCli, OddPathsAreErrorsOfTheirOwn) {
  expect_refused({"index", "add", "/dev/null", docs_}, 2,
                 "/dev/null: is a file, wanted the folder");
  const std::string long_name(5000, 'x');
  expect_refused({"index", "build", long_name, docs_}, 2, "File name too long");
  std::filesystem::create_symlink("loop", path("loop"));
  expect_refused({"index", "build", path("loop"), docs_}, 2, "Too many levels of symbolic links");
}

TEST_F(HostileCli, EmptyNamesAndTextsAreRefused) {
  const std::string index = path("x.idx");
  expect_refused({"index", "build", "", docs_}, 2, "the index's name is empty");
  ASSERT_EQ(run_quarry({"index", "build", index, docs_, "--embedder", kEncoder}).exit_code, 0);
  expect_refused({"search", index, " \t"}, 2, "the query is empty");
}

TEST_F(HostileCli, NumbersThatAreTooSmallAreRefusedInAShortMessage) {
  for (const char* number : {"-1", "nan", "inf", "x", ""}) {
    expect_refused({"index", "build", path("x.idx"), docs_, "--chunk-tokens", number}, 2,
                   concat("--chunk-tokens: Value ", number, " is no number from 0 on\n"));
  }
}

TEST_F(HostileCli, ARunFolderThatIsAFileIsRefused) {
  const std::string rows =
      folder_.write("rows.jsonl", R"({"question": "Q?", "answer": "A", "context": "A it is."})");
  const std::string model = write_tiny_llama_gguf(folder_.path(), 3).string();
  expect_refused({"finetune", "--train", rows, "--model", model, "--out", rows}, 2,
                 rows + ": is a file, wanted a run folder");
}

TEST_F(HostileCli, AnEmptyKeyFileNameLetsNobodyIn) {
  expect_refused({"serve", path("x.idx"), "--api-key-file", ""}, 2, "wanted the name of a file");
}

TEST_F(HostileCli, ResultsThatCannotBeWrittenAreNoSuccess) {
  EXPECT_EQ(run_in_shell("help exit-codes >/dev/full"), 6);
  EXPECT_EQ(errors(), "error: standard output: cannot write: No space left on device\n");
  EXPECT_EQ(run_in_shell("finetune --fields >/dev/full"), 6);
  EXPECT_EQ(run_in_shell("finetune --fields >" + path("fields")), 0);
}

TEST_F(HostileCli, AReaderThatLeavesIsNoError) {
  EXPECT_EQ(run_in_shell("finetune --fields | head -c1 >/dev/null"), 0);
  EXPECT_EQ(errors(), "");
}

// A file that is opened where a standard stream is closed would get what is printed.
TEST_F(HostileCli, ClosedStandardStreamsHarmNoFile) {
  const std::string model = write_tiny_llama_gguf(folder_.path(), 3).string();
  const std::string rows =
      folder_.write("rows.jsonl", R"({"question": "Q?", "answer": "A", "context": "A it is."})");
  for (const std::string streams : {">&- 2>&-", "2>&-", "<&- >&-"}) {
    const std::string run = path("run");
    EXPECT_EQ(run_in_shell("finetune --train " + rows + " --model " + model + " --out " + run +
                           " --max-steps 1 </dev/null " + streams),
              0);
    std::ifstream metrics(run + "/metrics.jsonl");
    std::string line;
    EXPECT_TRUE(std::getline(metrics, line));
    do {
      EXPECT_EQ(line.front(), '{') << streams << ": " << line;
    } while (std::getline(metrics, line));
    std::filesystem::remove_all(run);
  }
}

}  // namespace
}  // namespace quarry::testing
