#pragma once

#include <atomic>

#include "data/core/error.h"

namespace quarry {

// A flag that long work polls. Set from any thread or from a signal handler.
class CancelFlag {
 public:
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Throws kUnavailable "<what>: cancelled" once cancel() was called.
  void check(const char* what) const {
    QUARRY_CHECK(!cancelled(), ErrorCode::kUnavailable, what, ": cancelled");
  }

 private:
  std::atomic<bool> cancelled_{false};
};

}  // namespace quarry
