#include "data/core/parallel_for.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

// Our own copy: OpenMP keeps the number per thread, and libraries (LibTorch on first use) change it
// under the thread that calls them.
std::atomic<int>& wanted_threads() {
  static std::atomic<int> threads{omp_get_max_threads()};
  return threads;
}
// Read before any library runs.
[[maybe_unused]] const int g_threads_at_start = wanted_threads().load();

// Whether this thread runs a piece.
thread_local bool t_is_inside = false;

// OMP_PROC_BIND and the like have the libraries' OpenMP bind the first thread to one CPU as the
// program starts, which its threads would inherit: lets this one have all of OpenMP's CPUs.
void use_all_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> ids(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, ids.data());
    for (const int id : ids) {
      if (id < CPU_SETSIZE) CPU_SET(static_cast<size_t>(id), &cpus);
    }
  }
  if (CPU_COUNT(&cpus) > 0) sched_setaffinity(0, sizeof(cpus), &cpus);
}

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Watches `is_met` for at most `limit`, at first closely, then letting others have the core.
// Returns what it gave last.
template <typename Condition>
bool watch(Clock::duration limit, const Condition& is_met) {
  constexpr auto kClosely = std::chrono::microseconds(20);
  constexpr int kPauses = 32;
  const Clock::time_point start = Clock::now();
  for (;;) {
    for (int i = 0; i < kPauses; ++i) {
      if (is_met()) return true;
      pause();
    }
    const Clock::duration elapsed = Clock::now() - start;
    if (elapsed > limit) return is_met();
    if (elapsed > kClosely) std::this_thread::yield();
  }
}

// The pieces of one call.
class Job {
 public:
  Job(int64_t n, int64_t pieces, void (*run)(const void*, int64_t, int64_t), const void* body)
      : n_(n), pieces_(pieces), run_(run), body_(body) {}

  // Runs the next piece; false when none is left.
  bool run_next() {
    const int64_t piece = next_.fetch_add(1, std::memory_order_relaxed);
    if (piece >= pieces_) return false;
    try {
      run_(body_, n_ * piece / pieces_, n_ * (piece + 1) / pieces_);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex_);
      if (!first_error_) first_error_ = std::current_exception();
    }
    return true;
  }
  void rethrow() const {
    if (first_error_) std::rethrow_exception(first_error_);
  }

 private:
  const int64_t n_;
  const int64_t pieces_;
  void (*const run_)(const void*, int64_t, int64_t);
  const void* const body_;
  std::atomic<int64_t> next_{0};
  std::mutex error_mutex_;
  std::exception_ptr first_error_;
};

// The process's workers. A step of a model is hundreds of calls with microseconds between them, so
// a worker watches for the next one a while before it sleeps, and a caller never waits for a worker
// that has not come yet: at its own last piece it closes the job and waits for those inside.
class Pool {
 public:
  // Lives to the end of the process, whose other threads may still be in a call.
  static Pool& get() {
    static Pool& pool = *new Pool;
    return pool;
  }

  // Runs `job` with up to `helpers` workers; false, at once, when another thread has them.
  bool try_run(Job& job, int helpers) {
    const std::unique_lock<std::mutex> owner(owner_mutex_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    helpers = start_workers(helpers);
    job_ = &job;
    num_left_.store(0, std::memory_order_relaxed);
    const uint64_t closed = (state_.load(std::memory_order_relaxed) | kSeats) + 1;
    state_.store(closed + static_cast<uint64_t>(helpers));
    wake(helpers);
    while (job.run_next()) continue;
    const auto num_joined = helpers - static_cast<int>(state_.exchange(closed) & kSeats);
    const auto all_left = [&] { return num_left_.load(std::memory_order_acquire) == num_joined; };
    // Milliseconds are watched out: naps would cost a prompt's products several percent. What is
    // left of seconds of work is worth no core.
    while (!watch(std::chrono::milliseconds(20), all_left)) std::this_thread::sleep_for(kNap);
    return true;
  }

 private:
  static constexpr uint64_t kSeats = 0xffff;  // a job's free places; above them the job's number
  static constexpr auto kPatience = std::chrono::microseconds(200);
  static constexpr auto kNap = std::chrono::microseconds(200);

  // At least `wanted` where the system allows it; returns how many may help.
  int start_workers(int wanted) {
    wanted = std::min(wanted, most_workers_);
    while (num_workers_ < wanted) {
      try {
        std::thread([this] { work(); }).detach();
      } catch (const std::exception&) {
        most_workers_ = num_workers_;  // asking again for each call would cost more than it gives
        break;
      }
      ++num_workers_;
    }
    return std::min(wanted, num_workers_);
  }

  // Until `count` are awake. Those that are look at state_ again before they sleep.
  void wake(int count) {
    count -= num_workers_ - num_asleep_.load();
    if (count <= 0) return;
    { const std::lock_guard<std::mutex> lock(sleep_mutex_); }  // who has looked, waits by now
    for (; count > 0; --count) wake_.notify_one();
  }

  void work() {
    t_is_inside = true;
    omp_set_num_threads(1);
    use_all_cpus();
    uint64_t last = 0;  // the job that it has been in
    for (;;) {
      uint64_t state = 0;
      const auto has_seat = [&] {
        state = state_.load();
        return (state & kSeats) != 0 && (state & ~kSeats) != last;
      };
      if (!watch(kPatience, has_seat)) {
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        ++num_asleep_;
        wake_.wait(lock, has_seat);
        --num_asleep_;
      }
      if (!state_.compare_exchange_strong(state, state - 1)) continue;
      last = state & ~kSeats;
      while (job_->run_next()) continue;
      num_left_.fetch_add(1, std::memory_order_release);
    }
  }

  std::mutex owner_mutex_;  // held while a job runs
  int num_workers_ = 0;     // guarded by it, as the next
  int most_workers_ = static_cast<int>(kSeats);
  Job* job_ = nullptr;  // valid to who took a seat, until it has left
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> num_left_{0};
  alignas(64) std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::atomic<int> num_asleep_{0};
};

// This thread runs pieces, and libraries in them on it alone.
class Inside {
 public:
  Inside() { t_is_inside = true; }
  ~Inside() { t_is_inside = false; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  const LibraryThreads alone_{1};
};

}  // namespace

LibraryThreads::LibraryThreads(int n) : before_(omp_get_max_threads()) { omp_set_num_threads(n); }
LibraryThreads::~LibraryThreads() { omp_set_num_threads(before_); }

int num_threads() { return t_is_inside || omp_in_parallel() ? 1 : wanted_threads().load(); }

void set_num_threads(int n) {
  wanted_threads() = n < 1 ? 1 : n;
  omp_set_num_threads(n < 1 ? 1 : n);
}

namespace internal {

int64_t num_pieces(int64_t n, int64_t grain) {
  const int64_t pieces_by_grain = (n + grain - 1) / grain;
  const int64_t threads = num_threads();
  if (threads == 1) return 1;
  // Little work is cut once per thread: handing out costs more than waiting.
  constexpr int64_t kPiecesPerThread = 8;
  const bool is_large = pieces_by_grain >= kPiecesPerThread * threads;
  return std::min(pieces_by_grain, is_large ? kPiecesPerThread * threads : threads);
}

void run_pieces(int64_t n, int64_t pieces, void (*run)(const void*, int64_t, int64_t),
                const void* body) {
  Job job(n, pieces, run, body);
  const auto helpers = static_cast<int>(std::min<int64_t>(pieces, num_threads()) - 1);
  {
    const Inside inside;
    // Others mostly have them for microseconds, and a piece can be long.
    const auto try_run = [&] { return Pool::get().try_run(job, helpers); };
    bool has_run = watch(std::chrono::microseconds(50), try_run);
    while (!has_run && job.run_next()) has_run = try_run();
  }
  job.rethrow();
}

}  // namespace internal
}  // namespace quarry
