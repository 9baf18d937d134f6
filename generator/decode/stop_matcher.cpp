#include "generator/decode/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "data/core/error.h"

namespace quarry {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (size_t i = 0; i < stops_.size(); ++i) {
    QUARRY_CHECK(!stops_[i].empty(), ErrorCode::kInvalidArgument, "stop[", i, "] is empty");
    QUARRY_CHECK((static_cast<unsigned char>(stops_[i][0]) & 0xC0) != 0x80,
                 ErrorCode::kInvalidArgument, "stop[", i, "] starts inside a UTF-8 character");
  }
}

std::string StopMatcher::push(const std::string& text) {
  if (stopped_) return "";
  pending_ += text;
  size_t best_begin = std::string::npos;
  size_t best_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = pending_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_begin = begin;
      best_end = end;
    }
  }
  std::string ready;
  if (best_begin != std::string::npos) {
    stopped_ = true;
    ready = pending_.substr(0, best_begin);
    pending_.clear();
    return ready;
  }
  const size_t ready_bytes = pending_.size() - held_back_bytes();
  ready = pending_.substr(0, ready_bytes);
  pending_.erase(0, ready_bytes);
  return ready;
}

// Longest end of the pending text that is the beginning of a stop string.
size_t StopMatcher::held_back_bytes() const {
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
        held = n;
        break;
      }
    }
  }
  return held;
}

std::string StopMatcher::finish() { return std::exchange(pending_, std::string()); }

}  // namespace quarry
