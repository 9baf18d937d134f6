#include "tests/support/cuda_host/fiber_block.h"

#include <cuda_runtime.h>
#include <ucontext.h>

#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

namespace quarry::cuda_host {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

struct Copy {
  void* destination;
  const void* source;
  bool valid;
};

struct Fiber {
  ucontext_t context;
  bool done = false;
  std::vector<Copy> open;                 // copies of no group yet
  std::deque<std::vector<Copy>> pending;  // groups, the oldest first
};

struct Barrier {
  int arrived = 0;
  int64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  void* values[kWarp] = {};
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<uint8_t> shared;
  const std::function<void()>* body = nullptr;
  ucontext_t scheduler;
  int current = 0;
  int64_t progress = 0;  // arrivals and ends
  std::exception_ptr error;
};

Block* running = nullptr;

char* stack_of(size_t fiber) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= fiber) stacks.emplace_back(new char[kStackBytes]);
  return stacks[fiber].get();
}

void run_fiber() {
  try {
    (*running->body)();
  } catch (...) {
    running->error = std::current_exception();
  }
  running->fibers[static_cast<size_t>(running->current)].done = true;
  ++running->progress;
}

void prepare(ucontext_t* context, char* stack, ucontext_t* after) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = after;
  makecontext(context, run_fiber, 0);
}

// The last of `count` to arrive runs `finish`; the others wait for it.
template <typename Finish>
void arrive(Barrier& barrier, int count, const Finish& finish) {
  Block& block = *running;
  ++block.progress;
  if (++barrier.arrived == count) {
    finish();
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  const int64_t generation = barrier.generation;
  while (barrier.generation == generation) {
    swapcontext(&block.fibers[static_cast<size_t>(block.current)].context, &block.scheduler);
  }
}

Fiber& current_fiber() { return running->fibers[static_cast<size_t>(running->current)]; }

}  // namespace

void run_block(int threads, int64_t shared_bytes, bool rising, const std::function<void()>& body) {
  Block block;
  block.fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  block.warps.resize(static_cast<size_t>((threads + kWarp - 1) / kWarp));
  block.shared.assign(static_cast<size_t>(shared_bytes), 0xff);
  block.body = &body;
  running = &block;
  for (size_t i = 0; i < block.fibers.size(); ++i) {
    prepare(&block.fibers[i].context, stack_of(i), &block.scheduler);
  }
  for (int left = threads; left > 0;) {
    const int64_t progress = block.progress;
    left = 0;
    for (int i = 0; i < threads; ++i) {
      block.current = rising ? i : threads - 1 - i;
      if (current_fiber().done) continue;
      threadIdx.x = static_cast<unsigned>(block.current);
      swapcontext(&block.scheduler, &current_fiber().context);
      left += current_fiber().done ? 0 : 1;
      if (block.error) std::rethrow_exception(block.error);
    }
    if (left > 0 && block.progress == progress) {
      throw std::logic_error("the threads of a block wait for each other");
    }
  }
  running = nullptr;
}

uint8_t* shared_memory() { return running->shared.data(); }

void wait_block() {
  arrive(running->barrier, static_cast<int>(running->fibers.size()), [] {});
}

void exchange(void* value, const std::function<void(WarpValues)>& combine) {
  Warp& warp = running->warps[static_cast<size_t>(running->current / kWarp)];
  warp.values[running->current % kWarp] = value;
  arrive(warp.barrier, kWarp, [&] { combine(warp.values); });
}

void begin_copy(void* destination, const void* source, bool valid) {
  current_fiber().open.push_back({destination, source, valid});
}

void close_copies() {
  current_fiber().pending.push_back(std::move(current_fiber().open));
  current_fiber().open.clear();
}

void finish_copies(int groups) {
  std::deque<std::vector<Copy>>& pending = current_fiber().pending;
  while (static_cast<int>(pending.size()) > groups) {
    for (const Copy& copy : pending.front()) {
      if (copy.valid) {
        std::memcpy(copy.destination, copy.source, 16);
      } else {
        std::memset(copy.destination, 0, 16);
      }
    }
    pending.pop_front();
  }
}

}  // namespace quarry::cuda_host
