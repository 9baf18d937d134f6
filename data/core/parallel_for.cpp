#include "data/core/parallel_for.h"

#include <omp.h>

#include <atomic>

namespace quarry {
namespace {

// Our own copy: OpenMP keeps the number per thread, and libraries (LibTorch on first use) change it
// under the thread that calls them.
std::atomic<int>& wanted_threads() {
  static std::atomic<int> threads{omp_get_max_threads()};
  return threads;
}
// Read before any library runs.
[[maybe_unused]] const int g_threads_at_start = wanted_threads().load();

}  // namespace

int num_threads() { return omp_in_parallel() ? 1 : wanted_threads().load(); }

void set_num_threads(int n) {
  wanted_threads() = n < 1 ? 1 : n;
  omp_set_num_threads(n < 1 ? 1 : n);
}

}  // namespace quarry
