// The main job with the real program and the real default models: index, search, ask.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "data/core/json.h"
#include "tests/integration/program.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;

const char* const kHarbour =
    "# Harbour office\n\nThe harbour office is in the old customs house.\n\n"
    "## Opening hours\n\nThe harbour office opens at 07:30 on weekdays and stays closed on "
    "Sundays. "
    "Berths are assigned on arrival.\n\n"
    "## Fees\n\nA berth for one night costs 18 euros for boats under ten metres.\n";
const char* const kLighthouse =
    "The lighthouse of Brackwater was built in 1874 by the engineer Ada Thorne. "
    "Its lamp was electrified in 1931. The tower is 41 metres high.\n";
const char* const kFerry =
    "<html><head><title>Ferry</title></head><body><h1>Ferry to Skarholm</h1>"
    "<p>The ferry to Skarholm sails twice a day and takes fifty minutes.</p></body></html>";

class MainJob : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!default_models_installed()) {
      GTEST_SKIP() << "the default models are not installed: run scripts/fetch_models.sh";
    }
    folder_.write("docs/harbour.md", kHarbour);
    folder_.write("docs/lighthouse.txt", kLighthouse);
    folder_.write("docs/sub/ferry.html", kFerry);
    index_ = (folder_.path() / "town.idx").string();
    docs_ = (folder_.path() / "docs").string();
    const ProgramResult built = run_quarry({"index", "build", index_, docs_});
    ASSERT_EQ(built.exit_code, 0) << built.errors;
  }

  Json search(const std::string& query, const std::string& mode) {
    const ProgramResult result =
        run_quarry({"search", index_, query, "--mode", mode, "--json", "--top-k", "3"});
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    return parse_json(result.output, "search", ErrorCode::kInternal);
  }

  TemporaryFolder folder_;
  std::string index_;
  std::string docs_;
};

TEST_F(MainJob, EveryModeFindsThePassage) {
  for (const char* mode : {"dense", "lexical", "hybrid"}) {
    const Json found = search("Who built the lighthouse?", mode);
    ASSERT_FALSE(found.at("data").empty()) << mode;
    EXPECT_THAT(found.at("data")[0].at("quote").get<std::string>(), HasSubstr("Ada Thorne"))
        << mode;
  }
}

TEST_F(MainJob, SpansPointIntoTheSourceFile) {
  const Json hit = search("What does a berth cost?", "hybrid").at("data").at(0);
  std::ifstream file(folder_.path() / "docs/harbour.md", std::ios::binary);
  const std::string source{std::istreambuf_iterator<char>(file), {}};
  const int64_t start = hit.at("start");
  const int64_t end = hit.at("end");
  EXPECT_EQ(source.substr(static_cast<size_t>(start), static_cast<size_t>(end - start)),
            hit.at("quote").get<std::string>());
  EXPECT_THAT(hit.at("heading").get<std::string>(), HasSubstr("Fees"));
}

TEST_F(MainJob, AskAnswersWithNumberedSources) {
  const ProgramResult result =
      run_quarry({"ask", index_, "When does the harbour office open on weekdays?"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_THAT(result.output, HasSubstr("Sources"));
  EXPECT_THAT(result.output, HasSubstr("[1]"));
  EXPECT_THAT(result.output, HasSubstr("harbour.md"));
}

TEST_F(MainJob, TheSameQuestionGivesTheSameAnswer) {
  const std::vector<std::string> command = {"ask", index_, "How long does the ferry take?",
                                            "--json"};
  const Json first = parse_json(run_quarry(command).output, "ask", ErrorCode::kInternal);
  const Json second = parse_json(run_quarry(command).output, "ask", ErrorCode::kInternal);
  EXPECT_EQ(first.at("answer"), second.at("answer"));
  EXPECT_EQ(first.at("citations"), second.at("citations"));
}

TEST_F(MainJob, AnAbsentTopicIsNotInvented) {
  const ProgramResult result =
      run_quarry({"ask", index_, "Which enzyme phosphorylates glucose in the liver?", "--json"});
  EXPECT_EQ(result.exit_code, 4);
  const Json answer = parse_json(result.output, "ask", ErrorCode::kInternal);
  EXPECT_FALSE(answer.at("answered").get<bool>());
}

TEST_F(MainJob, ARefusalSaysWhatCanBeTried) {
  std::vector<std::string> command = {"ask", index_, "Which enzyme phosphorylates glucose?"};
  const ProgramResult irrelevant = run_quarry(command);
  EXPECT_EQ(irrelevant.exit_code, 4);
  EXPECT_THAT(irrelevant.errors, HasSubstr("help: what was found hardly speaks of this"));
  command.insert(command.end(), {"--min-relevance", "0", "--refusal-bias=100"});
  const ProgramResult refused = run_quarry(command);
  EXPECT_EQ(refused.exit_code, 4) << refused.output;
  EXPECT_THAT(refused.errors, HasSubstr("help: the model found no answer in the passages; "
                                        "--refusal-bias=-2"));
  command.emplace_back("--quiet");
  EXPECT_EQ(run_quarry(command).errors, "");
  command.insert(command.end(), {"--filter", "author=nobody"});
  command.erase(std::find(command.begin(), command.end(), "--quiet"));
  EXPECT_THAT(run_quarry(command).errors, HasSubstr("help: the search found no passage at all"));
}

TEST_F(MainJob, BuildingAgainEmbedsNothingAndChangesFollowTheFiles) {
  const ProgramResult again = run_quarry({"index", "build", index_, docs_, "--json"});
  ASSERT_EQ(again.exit_code, 0) << again.errors;
  const Json unchanged = parse_json(again.output, "build", ErrorCode::kInternal);
  EXPECT_EQ(unchanged.at("passages_embedded"), 0);
  EXPECT_EQ(unchanged.at("documents_unchanged"), 3);

  folder_.write("docs/lighthouse.txt",
                "The lighthouse was painted green in 2003 by Olaf Brandt.\n");
  std::filesystem::remove(folder_.path() / "docs/sub/ferry.html");
  const ProgramResult third = run_quarry({"index", "build", index_, docs_, "--json"});
  ASSERT_EQ(third.exit_code, 0) << third.errors;
  const Json changed = parse_json(third.output, "build", ErrorCode::kInternal);
  EXPECT_EQ(changed.at("documents_updated"), 1);
  EXPECT_EQ(changed.at("documents_removed"), 1);
  EXPECT_THAT(search("Who painted the lighthouse?", "dense").at("data")[0].at("quote"),
              HasSubstr("Olaf Brandt"));
  EXPECT_EQ(run_quarry({"index", "verify", index_}).exit_code, 0);
}

TEST_F(MainJob, ARemovedFileThatWouldComeBackIsLeftOutAsTold) {
  const std::string removed = docs_ + "/lighthouse.txt";
  const ProgramResult rm = run_quarry({"index", "rm", index_, removed});
  EXPECT_EQ(rm.exit_code, 0) << rm.errors;
  EXPECT_THAT(rm.errors, HasSubstr("help: " + removed + " is still there below " + docs_));
  const size_t command = rm.errors.find("quarry index build '" + index_ + "' '" + docs_ + "'");
  ASSERT_NE(command, std::string::npos) << rm.errors;
  EXPECT_THAT(rm.errors.substr(command), HasSubstr("--exclude '/lighthouse.txt'"));
  const ProgramResult built =
      run_quarry({"index", "build", index_, docs_, "--exclude", "/lighthouse.txt", "--json"});
  EXPECT_EQ(parse_json(built.output, "build", ErrorCode::kInternal).at("documents"), 2);
  const ProgramResult quiet = run_quarry({"--quiet", "index", "rm", index_, docs_ + "/sub"});
  EXPECT_EQ(quiet.errors, "");
}

TEST_F(MainJob, InfoTellsWhatTheIndexHolds) {
  const ProgramResult result = run_quarry({"index", "info", index_, "--json"});
  const Json info = parse_json(result.output, "info", ErrorCode::kInternal);
  EXPECT_EQ(info.at("documents"), 3);
  EXPECT_EQ(info.at("embedder"), "all-minilm-l6-v2");
}

}  // namespace
}  // namespace quarry::testing
