#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

namespace quarry {

// Threads that parallel_for uses: OMP_NUM_THREADS, or the number of physical cores we may run on.
int num_threads();
// Process-wide; n >= 1.
void set_num_threads(int n);

// Calls body(begin, end) on disjoint pieces that cover [0, n), each of at least `grain` items, on
// the OpenMP pool. The first exception thrown by a piece is rethrown here after all have ended.
// Not to be called from inside a body (runs serially there).
template <typename Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  const int64_t pieces_by_grain = (n + grain - 1) / grain;
  const int64_t pieces =
      pieces_by_grain < num_threads() ? pieces_by_grain : static_cast<int64_t>(num_threads());
  if (pieces <= 1) {
    body(int64_t{0}, n);
    return;
  }
  std::exception_ptr first_error;
  std::mutex error_mutex;
#pragma omp parallel for schedule(static, 1) num_threads(static_cast <int>(pieces))
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t begin = n * piece / pieces;
    const int64_t end = n * (piece + 1) / pieces;
    try {
      body(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      if (!first_error) first_error = std::current_exception();
    }
  }
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace quarry
