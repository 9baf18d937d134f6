#pragma once

#include <cstdint>
#include <functional>

namespace quarry::cuda_host {

// Runs `body` as `threads` fibers of one block with threadIdx.x 0 .. threads - 1, and
// `shared_bytes` of shared memory. Throws std::logic_error when they wait for each other for ever.
void run_block(int threads, int64_t shared_bytes, bool rising, const std::function<void()>& body);

// For the running fiber:
uint8_t* shared_memory();
// Waits until all threads of the block are here.
void wait_block();
// Waits until all lanes of the warp have brought a `value`, of at most 64 bytes, then runs
// `combine(values)` once; values[lane] points to a lane's and stays until its next exchange.
using WarpValues = void* const*;
void exchange(void* value, const std::function<void(WarpValues)>& combine);
// Copies of this thread that are under way: begin one, close a group, finish all but `groups`.
void begin_copy(void* destination, const void* source, bool valid);
void close_copies();
void finish_copies(int groups);

}  // namespace quarry::cuda_host
