#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>

namespace quarry {

// Where long work tells how far it is. One thread at a time.
class Progress {
 public:
  virtual ~Progress() = default;
  // `done` of `total` units of work (total <= 0: unknown) for `what` ("indexing"); `detail` is the
  // caller's own words ("1200 passages, 51/s"). Cheap: most calls show nothing.
  virtual void update(const std::string& what, double done, double total,
                      const std::string& detail) = 0;
  // One line that stays, at once.
  virtual void note(const std::string& line) = 0;
  // Ends the line that update() draws.
  virtual void finish() = 0;
};

// Shows nothing.
class SilentProgress : public Progress {
 public:
  void update(const std::string&, double, double, const std::string&) override {}
  void note(const std::string&) override {}
  void finish() override {}
};

enum class ProgressStyle {
  kTerminal,  // one line drawn over and over, ten times a second
  kLines      // a plain line every five seconds: logs, pipes
};

// Writes share done, detail and time left to `out`, which is borrowed.
std::unique_ptr<Progress> make_progress(std::ostream& out, ProgressStyle style);

// "45 s", "3 min 20 s", "2 h 05 min".
std::string format_duration(double seconds);

}  // namespace quarry
