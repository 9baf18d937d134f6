#include "data/distributed/rank_watch.h"

#include <chrono>
#include <utility>

#include "data/core/error.h"

namespace quarry {
namespace {

constexpr std::chrono::milliseconds kBeat(250);
// Without a beat for so long a process counts as lost; one that the system merely delays does not.
constexpr std::chrono::milliseconds kSilence(2500);

std::string beat_key(int rank) { return concat("beat/", rank); }

}  // namespace

RankWatch::RankWatch(SharedNotes notes, int rank, int world_size)
    : notes_(std::move(notes)), rank_(rank), world_size_(world_size) {
  thread_ = std::thread([this] { beat(); });
}

RankWatch::~RankWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_over_ = true;
  }
  ends_.notify_all();
  thread_.join();
}

void RankWatch::beat() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (int64_t count = 1; !is_over_; ++count) {
    lock.unlock();
    std::string announced;
    try {
      notes_.set(beat_key(rank_), std::to_string(count));
      announced = notes_.get("lost");
    } catch (const std::exception&) {
      return;  // rank 0, which has the notes, is gone: find_lost() will see that too
    }
    lock.lock();
    if (lost_.empty()) lost_ = announced;
    ends_.wait_for(lock, kBeat, [this] { return is_over_; });
  }
}

std::vector<std::string> RankWatch::counts() const {
  std::vector<std::string> counts;
  for (int rank = 0; rank < world_size_; ++rank) counts.push_back(notes_.get(beat_key(rank)));
  return counts;
}

std::string RankWatch::find_lost(const std::string& cause) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!lost_.empty()) return lost_;
  }
  try {
    const std::vector<std::string> before = counts();
    std::this_thread::sleep_for(kSilence);
    const std::string announced = notes_.get("lost");
    if (!announced.empty()) return announced;
    const std::vector<std::string> after = counts();
    std::string lost;
    for (int rank = 0; rank < world_size_; ++rank) {
      const auto i = static_cast<size_t>(rank);
      if (rank == rank_ || before[i] != after[i]) continue;
      lost += concat(lost.empty() ? "rank " : ", rank ", rank);
    }
    const std::string sentence = lost.empty() ? concat("the connection between the ", world_size_,
                                                       " processes broke: ", cause)
                                              : concat(lost, " of ", world_size_, " was lost");
    announce(sentence);
    wait_until_heard();
    return sentence;
  } catch (const std::exception&) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lost_.empty() ? concat("rank 0 of ", world_size_, " was lost") : lost_;
  }
}

void RankWatch::wait_until_heard() const {
  if (rank_ == 0) std::this_thread::sleep_for(4 * kBeat);
}

void RankWatch::announce(const std::string& sentence) {
  if (notes_.get("lost").empty()) notes_.set("lost", sentence);
}

}  // namespace quarry
