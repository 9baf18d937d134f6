#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "data/core/error.h"
#include "data/distributed/process_place.h"

namespace quarry {

// Another process of a group is gone: it was killed, ended with an error, or cannot be reached.
// what() says which.
class LostRankError : public Error {
 public:
  explicit LostRankError(const std::string& message) : Error(ErrorCode::kUnavailable, message) {}
};

struct ProcessGroupOptions {
  int64_t join_timeout_ms = 300'000;  // until all have come together; whole seconds
  // Of one operation: how much longer than another one a process may take between two of them. A
  // process that ends is noticed at once.
  int64_t timeout_ms = 1'800'000;
};

// Processes that work together; each calls the same operations in the same order. Operations throw
// LostRankError, after which the group is of no more use. One thread.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // Adds up what all ranks have, element by element; all get the same bits.
  virtual void all_reduce_sum(float* values, int64_t count) = 0;
  virtual void all_reduce_sum(double* values, int64_t count) = 0;
  // All get the bytes of rank 0.
  virtual void broadcast(void* bytes, int64_t count) = 0;
  // Returns when all have called it.
  virtual void barrier() = 0;
  // From one rank to another one. REQUIRES: the other one receives, and asks for this rank.
  virtual void send(const std::string& bytes, int to) = 0;
  virtual std::string receive(int from) = 0;

  // Tells the others why this process is about to end early; their LostRankError says it.
  virtual void leave(const std::string& reason) noexcept = 0;
};

// Waits for the others, and throws kUnavailable when they do not come; kInvalidArgument in a build
// without c10d and Gloo (QUARRY_DISTRIBUTED).
std::unique_ptr<ProcessGroup> join_process_group(const ProcessPlace& place,
                                                 const ProcessGroupOptions& options = {});
// That of the environment; null for a process that is alone.
std::unique_ptr<ProcessGroup> join_process_group();

// Text of rank 0.
std::string broadcast_text(ProcessGroup& group, std::string text);

}  // namespace quarry
