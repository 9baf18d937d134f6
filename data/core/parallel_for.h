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
// the OpenMP pool. Work for many pieces is handed out as threads become free, so that a thread
// which shares its core with another program does not hold up the rest. The first exception thrown
// by a piece is rethrown here after all have ended. Not to be called from inside a body (runs
// serially there).
template <typename Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  const int64_t pieces_by_grain = (n + grain - 1) / grain;
  const int64_t threads = num_threads();
  // Little work is cut once per thread: handing out costs more than waiting.
  constexpr int64_t kPiecesPerThread = 8;
  const bool is_large = pieces_by_grain >= kPiecesPerThread * threads;
  const int64_t most = is_large ? kPiecesPerThread * threads : threads;
  const int64_t pieces = threads == 1 ? 1 : (pieces_by_grain < most ? pieces_by_grain : most);
  if (pieces <= 1) {
    body(int64_t{0}, n);
    return;
  }
  std::exception_ptr first_error;
  std::mutex error_mutex;
  const int64_t team = pieces < threads ? pieces : threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast <int>(team))
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
