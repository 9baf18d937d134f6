#include "finetune/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "finetune/loss_curve_svg.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path event_file(const fs::path& folder) {
  fs::path found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename().string().find("tfevents") == std::string::npos) continue;
    EXPECT_TRUE(found.empty()) << "two event files";
    found = entry.path();
  }
  return found;
}

MetricsRow train_row(int64_t step) {
  return {step, "train", {{"loss", 3.0 / static_cast<double>(step)}, {"learning_rate", 0.1}}};
}

TEST(RunLog, WritesOneLineARowAndTheSameToTensorboard) {
  const test::TemporaryFolder run;
  RunLog log(run.path(), -1);
  log.append(train_row(1));
  log.append({1, "eval", {{"loss", 2.5}, {"f1", std::numeric_limits<double>::quiet_NaN()}}});
  EXPECT_EQ(test::read_file(run.path() / "metrics.jsonl"),
            "{\"step\":1,\"phase\":\"train\",\"loss\":3.0,\"learning_rate\":0.1}\n"
            "{\"step\":1,\"phase\":\"eval\",\"loss\":2.5,\"f1\":null}\n");
  const std::vector<ScalarEvent> events = read_scalar_events(event_file(run.path()));
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].values[0], (std::pair<std::string, float>("train/loss", 3.0F)));
  EXPECT_EQ(events[1].values[0].first, "eval/loss");
  EXPECT_TRUE(std::isnan(events[1].values[1].second));
  EXPECT_GT(events[0].wall_time, 1.6e9);
  log.sync();
}

TEST(RunLog, ResumeCutsBackToItsStepAndGoesOnAsIfNothingHappened) {
  const test::TemporaryFolder whole;
  const test::TemporaryFolder broken;
  {
    RunLog log(whole.path(), -1);
    for (int64_t step = 1; step <= 6; ++step) log.append(train_row(step));
  }
  {
    RunLog log(broken.path(), -1);
    for (int64_t step = 1; step <= 5; ++step) log.append(train_row(step));
  }
  std::ofstream(broken.path() / "metrics.jsonl", std::ios::app) << "{\"step\":6,\"pha";
  std::ofstream(event_file(broken.path()), std::ios::app) << "half";
  {
    RunLog log(broken.path(), 3);
    ASSERT_EQ(log.rows().size(), 3U);
    EXPECT_EQ(log.rows()[2].values[0].second, 1.0);
    for (int64_t step = 4; step <= 6; ++step) log.append(train_row(step));
  }
  EXPECT_EQ(test::read_file(broken.path() / "metrics.jsonl"),
            test::read_file(whole.path() / "metrics.jsonl"));
  EXPECT_EQ(read_scalar_events(event_file(broken.path())).size(), 6U);
}

TEST(RunLog, AFreshStartForgetsWhatWasThere) {
  const test::TemporaryFolder run;
  RunLog(run.path(), -1).append(train_row(1));
  RunLog log(run.path(), -1);
  EXPECT_TRUE(log.rows().empty());
  EXPECT_EQ(test::read_file(run.path() / "metrics.jsonl"), "");
  EXPECT_TRUE(read_scalar_events(event_file(run.path())).empty());
}

TEST(RunLog, ADamagedLineIsNamed) {
  const auto message = [](const std::string& line) -> std::string {
    const test::TemporaryFolder run;
    std::ofstream(run.path() / "metrics.jsonl") << "{\"step\":1,\"phase\":\"train\"}\n"
                                                << line << "\n";
    try {
      RunLog log(run.path(), 10);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message("{\"step\":2,\"phase\":\"train\",\"loss\":null}"), "no error");
  EXPECT_THAT(message("{\"step\":2,"), HasSubstr("metrics.jsonl:2: not a JSON object"));
  EXPECT_THAT(message("{\"step\":2.5}"), HasSubstr("metrics.jsonl:2: no whole number \"step\""));
  EXPECT_THAT(message("{\"step\":2}"), HasSubstr("metrics.jsonl:2: no text \"phase\""));
  EXPECT_THAT(message("{\"step\":2,\"phase\":\"x\",\"loss\":\"y\"}"),
              HasSubstr("metrics.jsonl:2: a figure that is not a number"));
}

TEST(RunLog, LossCurveShowsTrainAndEval) {
  const test::TemporaryFolder run;
  RunLog log(run.path(), -1);
  for (int64_t step = 1; step <= 20; ++step) log.append(train_row(step));
  log.append({10, "eval", {{"loss", 1.5}}});
  log.write_loss_curve("a <run> & more");
  const std::string svg = test::read_file(run.path() / "loss_curve.svg");
  EXPECT_THAT(svg, HasSubstr("a &lt;run&gt; &amp; more"));
  EXPECT_THAT(svg, HasSubstr("eval loss"));
  EXPECT_THAT(svg, HasSubstr(">0</text>"));
  EXPECT_EQ(svg.find(">-0<"), std::string::npos);
  EXPECT_THAT(svg, HasSubstr(">20</text>"));  // the last tick of the steps
}

// Numbers of the n-th polyline.
std::string polyline(const std::string& svg, int n) {
  size_t at = 0;
  for (int i = 0; i <= n; ++i) at = svg.find("points=\"", at) + 8;
  return svg.substr(at, svg.find('"', at) - at);
}

TEST(LossCurve, PointsStandWhereTheirValuesSay) {
  LossCurve curve;
  curve.train = {{0, 0.0}, {50, std::nan("")}, {100, 4.0}};
  curve.smoothing = 0;
  // The plot spans x 72 .. 776 and y 424 (low) .. 48 (high).
  EXPECT_EQ(polyline(loss_curve_svg(curve), 0), "72,424 776,48");
  EXPECT_EQ(polyline(loss_curve_svg(curve), 1), "72,424 776,48");
  curve.train[2].second = 2.0;
  curve.eval = {{50, 4.0}};
  EXPECT_EQ(polyline(loss_curve_svg(curve), 0), "72,424 776,236");
  EXPECT_THAT(loss_curve_svg(curve), HasSubstr("<circle cx=\"424\" cy=\"48\""));
}

TEST(LossCurve, SmoothingStartsAtTheFirstValue) {
  LossCurve curve;
  curve.train = {{0, 0.0}, {100, 4.0}};
  curve.smoothing = 0.5;  // (0.5 * 0 + 1 * 4 * 0.5) / 0.75
  EXPECT_EQ(polyline(loss_curve_svg(curve), 1), "72,424 776,173.33");
}

TEST(LossCurve, NothingAndOneValueAndManyAreDrawn) {
  EXPECT_THAT(loss_curve_svg({}), HasSubstr("</svg>"));
  LossCurve curve;
  curve.train = {{3, 1.0}};
  EXPECT_THAT(loss_curve_svg(curve), HasSubstr("polyline"));
  EXPECT_EQ(loss_curve_svg(curve).find("nan"), std::string::npos);
  for (int64_t step = 0; step < 100000; ++step) curve.train.emplace_back(step, 1.0);
  EXPECT_LT(loss_curve_svg(curve).size(), 100000U);
}

TEST(Environment, SaysWhatTheRunRanOn) {
  const test::TemporaryFolder run;
  const Json environment =
      write_environment(run.path(), "1.2.3", {{"train.jsonl", "abc", 7, "CC BY-SA 4.0"}});
  EXPECT_EQ(environment, read_json_file(run.path() / "environment.json"));
  EXPECT_EQ(environment["program_version"], "1.2.3");
  EXPECT_EQ(environment["cpu_isa"], cpu_isa_name(cpu_isa()));
  EXPECT_GE(environment["threads"].get<int>(), 1);
  EXPECT_EQ(environment["data_files"][0]["sha256"], "abc");
  EXPECT_EQ(environment["data_files"][0]["num_examples"], 7);
}

}  // namespace
}  // namespace quarry
