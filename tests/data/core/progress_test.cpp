#include "data/core/progress.h"

#include <gmock/gmock.h>

#include <chrono>
#include <sstream>
#include <thread>

namespace quarry {
namespace {

using ::testing::HasSubstr;

TEST(FormatDuration, PicksTheUnits) {
  EXPECT_EQ(format_duration(-1.0), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(200.0), "3 min 20 s");
  EXPECT_EQ(format_duration(7500.0), "2 h 05 min");
}

TEST(Progress, TerminalDrawsOneLineAndClearsIt) {
  std::ostringstream out;
  const auto progress = make_progress(out, ProgressStyle::kTerminal);
  progress->update("indexing", 0.0, 100.0, "");
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  progress->update("indexing", 25.0, 100.0, "7 passages");
  EXPECT_THAT(out.str(), HasSubstr("\rindexing 25 %, 7 passages\x1b[K"));
  const size_t drawn = out.str().size();
  progress->update("indexing", 26.0, 100.0, "8 passages");
  EXPECT_EQ(out.str().size(), drawn) << "too soon to draw again";
  progress->finish();
  EXPECT_EQ(out.str().substr(drawn), "\r\x1b[K");
}

TEST(Progress, LinesAreRareAndNotesAreNot) {
  std::ostringstream out;
  const auto progress = make_progress(out, ProgressStyle::kLines);
  for (int i = 0; i < 1000; ++i) progress->update("indexing", i, 1000.0, "");
  EXPECT_EQ(out.str(), "");
  progress->note("one file left out");
  progress->finish();
  EXPECT_EQ(out.str(), "one file left out\n");
}

}  // namespace
}  // namespace quarry
