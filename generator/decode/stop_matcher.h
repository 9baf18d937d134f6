#pragma once

#include <string>
#include <vector>

namespace quarry {

// Cuts a stream of text before the first stop string. Text that could still turn out to begin one
// is held back. The result does not depend on how the stream was cut into pieces: of several stop
// strings the one that is complete first wins, and of those the longest. One stream, one thread.
class StopMatcher {
 public:
  // Throws kInvalidArgument for an empty stop string or one that does not start a UTF-8 character
  // (text is then never cut inside a character).
  explicit StopMatcher(std::vector<std::string> stops);

  // Text that may be shown now. After stopped(), empty.
  std::string push(const std::string& text);
  bool stopped() const { return stopped_; }
  // The stream ended without a stop string: what was held back.
  std::string finish();

 private:
  size_t held_back_bytes() const;

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace quarry
