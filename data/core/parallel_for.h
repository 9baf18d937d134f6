#pragma once

#include <cstdint>

namespace quarry {

// Threads that parallel_for uses: OMP_NUM_THREADS, or as many as there are CPUs for us. 1 inside of
// a body of several pieces.
int num_threads();
// Process-wide; n >= 1.
void set_num_threads(int n);

// Libraries that use OpenMP (FAISS, LibTorch) take so many threads when this thread calls them, for
// the lifetime of the object. Inside of a body they take one anyway.
class LibraryThreads {
 public:
  explicit LibraryThreads(int n);
  ~LibraryThreads();
  LibraryThreads(const LibraryThreads&) = delete;
  LibraryThreads& operator=(const LibraryThreads&) = delete;

 private:
  const int before_;
};

namespace internal {
// Pieces that parallel_for cuts n items into.
int64_t num_pieces(int64_t n, int64_t grain);
// Calls run(body, begin, end) for each of `pieces` > 1 pieces of [0, n).
void run_pieces(int64_t n, int64_t pieces,
                void (*run)(const void* body, int64_t begin, int64_t end), const void* body);
}  // namespace internal

// Calls body(begin, end) on disjoint pieces that cover [0, n), at most one for each `grain` items
// begun, on threads that the whole process shares. Work for many pieces is handed out as threads
// become free, so that a thread which shares its core with another program does not hold up the
// rest. The first exception thrown by a piece is rethrown here after all have ended. Several
// threads may call it at once; one that finds the others busy looks for them again between its own
// pieces. Inside of a body it runs serially, unless that had all items in one piece. A forked child
// has no threads but its own.
template <typename Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
  if (n <= 0) return;
  const int64_t pieces = internal::num_pieces(n, grain);
  if (pieces <= 1) {
    body(int64_t{0}, n);
    return;
  }
  internal::run_pieces(
      n, pieces,
      [](const void* any, int64_t begin, int64_t end) {
        (*static_cast<const Body*>(any))(begin, end);
      },
      &body);
}

}  // namespace quarry
