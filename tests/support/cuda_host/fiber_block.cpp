#include "tests/support/cuda_host/fiber_block.h"

#include <cuda_runtime.h>

// AddressSanitizer follows swapcontext.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define QUARRY_OWN_SWITCH
#else
#include <ucontext.h>
#endif

#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#ifdef QUARRY_OWN_SWITCH
// Saves where the caller is in *from, and goes on where `to` was saved. ucontext does it too, with
// a system call each time: a block has hundreds of threads that take turns.
extern "C" void quarry_switch_stack(void** from, void* to);
asm(R"(
.text
.globl quarry_switch_stack
.type quarry_switch_stack, @function
quarry_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size quarry_switch_stack, .-quarry_switch_stack
)");
#endif

namespace quarry::cuda_host {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;

#ifdef QUARRY_OWN_SWITCH

// Where something stands while it does not run.
struct Context {
  void* stack = nullptr;
};

void prepare(Context& context, char* stack, void (*run)()) {
  // As quarry_switch_stack leaves it: six registers and where to go on; above that, aligned as
  // behind a call, where `run`, which never returns, would return to.
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(run);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack = top;
}

void switch_to(Context& from, Context& to) { quarry_switch_stack(&from.stack, to.stack); }

#else

struct Context {
  ucontext_t place;
};

void prepare(Context& context, char* stack, void (*run)()) {
  getcontext(&context.place);
  context.place.uc_stack.ss_sp = stack;
  context.place.uc_stack.ss_size = kStackBytes;
  context.place.uc_link = nullptr;
  makecontext(&context.place, run, 0);
}

void switch_to(Context& from, Context& to) { swapcontext(&from.place, &to.place); }

#endif

struct Copy {
  void* destination;
  const void* source;
  bool valid;
};

struct Fiber {
  Context context;
  bool done = false;
  std::vector<Copy> open;                  // copies of no group yet
  std::vector<std::vector<Copy>> pending;  // groups, the oldest first
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
  Context scheduler;
  int current = 0;
  int64_t progress = 0;  // arrivals and ends
  std::exception_ptr error;
};

Block* running = nullptr;

char* stack_of(size_t fiber) {
  struct alignas(64) Stack {
    char bytes[kStackBytes];
  };
  static std::vector<std::unique_ptr<Stack>> stacks;
  while (stacks.size() <= fiber) stacks.emplace_back(new Stack);
  return stacks[fiber]->bytes;
}

void run_fiber() {
  try {
    (*running->body)();
  } catch (...) {
    running->error = std::current_exception();
  }
  Fiber& fiber = running->fibers[static_cast<size_t>(running->current)];
  fiber.done = true;
  ++running->progress;
  switch_to(fiber.context, running->scheduler);
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
    switch_to(block.fibers[static_cast<size_t>(block.current)].context, block.scheduler);
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
    prepare(block.fibers[i].context, stack_of(i), run_fiber);
  }
  for (int left = threads; left > 0;) {
    const int64_t progress = block.progress;
    left = 0;
    for (int i = 0; i < threads; ++i) {
      block.current = rising ? i : threads - 1 - i;
      if (current_fiber().done) continue;
      threadIdx.x = static_cast<unsigned>(block.current);
      switch_to(block.scheduler, current_fiber().context);
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
  std::vector<std::vector<Copy>>& pending = current_fiber().pending;
  while (static_cast<int>(pending.size()) > groups) {
    for (const Copy& copy : pending.front()) {
      if (copy.valid) {
        std::memcpy(copy.destination, copy.source, 16);
      } else {
        std::memset(copy.destination, 0, 16);
      }
    }
    pending.erase(pending.begin());
  }
}

}  // namespace quarry::cuda_host
