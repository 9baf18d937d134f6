#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace quarry {

// A place that all processes of a group write to and read from. Thread-safe; both throw when it
// cannot be reached.
struct SharedNotes {
  std::function<void(const std::string& key, const std::string& value)> set;
  std::function<std::string(const std::string& key)> get;  // empty: not set
};

// Knows which process of a group is gone: each counts up a number of its own in the notes, from a
// thread, while it lives. Thread-safe.
class RankWatch {
 public:
  RankWatch(SharedNotes notes, int rank, int world_size);
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  // Who is lost, as a sentence, for all that ask; takes a few seconds. `cause` is said when no
  // process is known to be.
  std::string find_lost(const std::string& cause);
  // Leaves the sentence for the others unless there is one.
  void announce(const std::string& sentence);
  // The notes end with the process of rank 0, which gives the others time to read them.
  void wait_until_heard() const;

 private:
  void beat();
  std::vector<std::string> counts() const;

  SharedNotes notes_;
  int rank_;
  int world_size_;
  std::mutex mutex_;
  std::condition_variable ends_;
  bool is_over_ = false;  // guarded by mutex_
  std::string lost_;      // guarded by mutex_: what was announced
  std::thread thread_;
};

}  // namespace quarry
