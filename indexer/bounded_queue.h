#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace quarry {

// A queue between two threads that holds at most `capacity` bytes (one item more, so that a larger
// item passes). Guarded: all methods from any thread.
template <typename Item>
class BoundedQueue {
 public:
  explicit BoundedQueue(int64_t capacity) : capacity_(capacity) {}

  // Waits for room. False, and the item is dropped, once the queue is stopped.
  bool push(Item item, int64_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return stopped_ || held_ < capacity_; });
    if (stopped_) return false;
    items_.emplace_back(std::move(item), bytes);
    held_ += bytes;
    changed_.notify_all();
    return true;
  }

  enum class Pop { kItem, kTimeout, kEnd };

  // Waits for an item until it comes, the time is over, or the queue is closed and empty (or
  // stopped): kEnd.
  Pop pop(Item& item, std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, timeout, [this] { return stopped_ || closed_ || !items_.empty(); });
    if (stopped_) return Pop::kEnd;
    if (items_.empty()) return closed_ ? Pop::kEnd : Pop::kTimeout;
    item = std::move(items_.front().first);
    held_ -= items_.front().second;
    items_.pop_front();
    changed_.notify_all();
    return Pop::kItem;
  }

  // No more items will come; those inside are still given out.
  void close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

  // Both sides end at once; what is inside is dropped.
  void stop() {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

 private:
  const int64_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<Item, int64_t>> items_;  // guarded by mutex_, as all below
  int64_t held_ = 0;
  bool closed_ = false;
  bool stopped_ = false;
};

}  // namespace quarry
