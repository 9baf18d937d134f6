#include "data/core/progress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iomanip>
#include <sstream>

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTerminalInterval = 0.1;
constexpr double kLinesInterval = 5.0;
constexpr double kShowEtaAfter = 1.0;  // seconds; before that a rate says little

class StreamProgress : public Progress {
 public:
  StreamProgress(std::ostream& out, ProgressStyle style) : out_(out), style_(style) {}

  void update(const std::string& what, double done, double total,
              const std::string& detail) override {
    const Clock::time_point now = Clock::now();
    if (what != what_) {
      what_ = what;
      started_ = now;
      shown_ = now;
      started_at_ = done;
      if (style_ == ProgressStyle::kLines) return;
    }
    const double interval = style_ == ProgressStyle::kTerminal ? kTerminalInterval : kLinesInterval;
    if (seconds_between(shown_, now) < interval) return;
    shown_ = now;
    show(line(done, total, detail, seconds_between(started_, now)));
  }

  void note(const std::string& line) override {
    clear();
    out_ << line << '\n' << std::flush;
  }

  void finish() override {
    clear();
    what_.clear();
  }

 private:
  static double seconds_between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }

  std::string line(double done, double total, const std::string& detail, double elapsed) const {
    std::ostringstream text;
    text << what_;
    if (total > 0.0) {
      const double share = std::clamp(done / total, 0.0, 1.0);
      text << ' ' << static_cast<int>(share * 100.0) << " %";
      if (!detail.empty()) text << ", " << detail;
      // What was done before the first call (a resumed run) says nothing about the rate.
      if (elapsed > kShowEtaAfter && done > started_at_ && share < 1.0) {
        text << ", " << format_duration(elapsed * (total - done) / (done - started_at_)) << " left";
      }
    } else if (!detail.empty()) {
      text << ", " << detail;
    }
    return text.str();
  }

  void show(const std::string& text) {
    if (style_ == ProgressStyle::kLines) {
      out_ << text << '\n' << std::flush;
      return;
    }
    out_ << '\r' << text << "\x1b[K" << std::flush;
    drawn_ = true;
  }

  void clear() {
    if (drawn_) out_ << "\r\x1b[K" << std::flush;
    drawn_ = false;
  }

  std::ostream& out_;
  ProgressStyle style_;
  std::string what_;
  Clock::time_point started_;
  double started_at_ = 0.0;  // units done at started_
  Clock::time_point shown_;
  bool drawn_ = false;
};

}  // namespace

std::unique_ptr<Progress> make_progress(std::ostream& out, ProgressStyle style) {
  return std::make_unique<StreamProgress>(out, style);
}

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
  std::ostringstream text;
  if (total < 60) {
    text << total << " s";
  } else if (total < 3600) {
    text << total / 60 << " min " << total % 60 << " s";
  } else {
    text << total / 3600 << " h " << std::setw(2) << std::setfill('0') << total % 3600 / 60
         << " min";
  }
  return text.str();
}

}  // namespace quarry
