#pragma once

#include <algorithm>
#include <chrono>
#include <ctime>
#include <vector>

namespace quarry::bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// CPU seconds of all threads of the process.
inline double cpu_seconds_now() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Median seconds of a call over `repeats` runs of enough calls to fill `min_seconds` each, and the
// best of them: on a shared machine the best is nearer to what the code can do, and the
// CPU time (of one thread: OMP_NUM_THREADS=1) nearer still.
struct Timing {
  double median = 0.0;
  double best = 0.0;
  double best_cpu = 0.0;
};

template <typename Body>
Timing time_calls(const Body& body, int repeats = 7, double min_seconds = 0.05) {
  body();
  int calls = 1;
  for (;; calls *= 2) {
    const double start = seconds_now();
    for (int i = 0; i < calls; ++i) body();
    if (seconds_now() - start >= min_seconds || calls >= (1 << 20)) break;
  }
  std::vector<double> runs;
  std::vector<double> cpu_runs;
  for (int r = 0; r < repeats; ++r) {
    const double start = seconds_now();
    const double cpu_start = cpu_seconds_now();
    for (int i = 0; i < calls; ++i) body();
    runs.push_back((seconds_now() - start) / calls);
    cpu_runs.push_back((cpu_seconds_now() - cpu_start) / calls);
  }
  std::sort(runs.begin(), runs.end());
  return {runs[runs.size() / 2], runs.front(), *std::min_element(cpu_runs.begin(), cpu_runs.end())};
}

}  // namespace quarry::bench
