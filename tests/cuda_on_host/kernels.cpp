// Threads of a block are fibers of one thread of the operating system; blocks run one by one.
#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "cuda_runtime.h"

thread_local dim3 threadIdx;
thread_local dim3 blockIdx;
thread_local dim3 blockDim;
thread_local dim3 gridDim;

namespace quip::cuda {
// The memory behind `extern __shared__`: the most that a block can have, and a margin.
constexpr std::size_t most_shared_bytes = 232448;
constexpr std::size_t margin = 256;
alignas(128) __thread unsigned char shared_bytes[most_shared_bytes + margin];
}  // namespace quip::cuda

namespace cuda_on_host {
namespace {

constexpr std::size_t stack_bytes = 256 << 10;
constexpr unsigned char poison = 0xff;  // as floating-point numbers: NaN

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s\n", what);
  std::abort();
}

Order order = Order::ascending;

class Stack {
 public:
  Stack()
      : memory_(mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (memory_ == MAP_FAILED) die("no memory for a stack");
  }
  ~Stack() { munmap(memory_, stack_bytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  [[nodiscard]] void* get() const { return memory_; }

 private:
  void* memory_;
};

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  Stack stack;
  ucontext_t start{};
  bool started = false;
  jmp_buf context;  // of where it waits
  State state = State::ready;
  dim3 index;
  unsigned char slot[8] = {};
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::size_t count = 0;
  std::size_t current = 0;
  jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
};

thread_local Block block;

// swapcontext would do, and calls the operating system each time, which took most of the time.
void wait(State state) {
  Fiber& fiber = *block.fibers[block.current];
  fiber.state = state;
  if (_setjmp(fiber.context) == 0) _longjmp(block.scheduler, 1);
}

/// Runs a thread of one block after the other.
void enter() {
  for (;;) {
    (*block.body)();
    wait(State::done);
  }
}

void proceed(Fiber& fiber) {
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.context, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

/// Opens a barrier if all of [first, last) that still run have reached it; true if it did.
bool open(std::size_t first, std::size_t last, State barrier) {
  bool any = false;
  for (std::size_t i = first; i < last; ++i) {
    const State state = block.fibers[i]->state;
    if (state != barrier && state != State::done) return false;
    any = any || state == barrier;
  }
  for (std::size_t i = first; any && i < last; ++i) {
    if (block.fibers[i]->state == barrier) block.fibers[i]->state = State::ready;
  }
  return any;
}

void resume(std::size_t i) {
  if (block.fibers[i]->state != State::ready) return;
  block.current = i;
  threadIdx = block.fibers[i]->index;
  proceed(*block.fibers[i]);
}

void run_block() {
  for (;;) {
    for (std::size_t i = 0; i < block.count; ++i) {
      resume(order == Order::ascending ? i : block.count - 1 - i);
    }
    bool progress = false;
    for (std::size_t first = 0; first < block.count; first += 32) {
      progress |= open(first, std::min(first + 32, block.count), State::at_warp_barrier);
    }
    progress |= open(0, block.count, State::at_block_barrier);
    if (progress) continue;
    for (std::size_t i = 0; i < block.count; ++i) {
      if (block.fibers[i]->state != State::done) die("some threads of a block miss a barrier");
    }
    return;
  }
}

std::unique_ptr<Fiber> make_fiber() {
  auto fiber = std::make_unique<Fiber>();
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = fiber->stack.get();
  fiber->start.uc_stack.ss_size = stack_bytes;
  fiber->start.uc_link = nullptr;
  makecontext(&fiber->start, enter, 0);
  return fiber;
}

void prepare(dim3 size) {
  block.count = std::size_t{size.x} * size.y * size.z;
  if (block.count > 1024) die("a block of more than 1024 threads");
  while (block.fibers.size() < block.count) block.fibers.push_back(make_fiber());
  for (std::size_t i = 0; i < block.count; ++i) {
    Fiber& fiber = *block.fibers[i];
    const auto linear = static_cast<unsigned>(i);
    fiber.index = dim3(linear % size.x, linear / size.x % size.y, linear / (size.x * size.y));
    fiber.state = State::ready;
  }
}

}  // namespace

void set_order(Order wanted) { order = wanted; }

void run(const std::function<void()>& thread, dim3 grid, dim3 size, std::size_t shared) {
  using quip::cuda::shared_bytes;
  if (grid.y > 65535 || grid.z > 65535) die("a grid beyond the limits of the device");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) die("an empty grid");
  if (shared > quip::cuda::most_shared_bytes) die("more shared memory than a block can have");
  block.body = &thread;
  gridDim = grid;
  blockDim = size;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        std::fill_n(shared_bytes, shared + quip::cuda::margin, poison);
        prepare(size);
        run_block();
        const unsigned char* end = shared_bytes + shared;
        if (std::any_of(end, end + quip::cuda::margin,
                        [](unsigned char b) { return b != poison; })) {
          die("a kernel wrote beyond its shared memory");
        }
      }
    }
  }
}

void block_barrier() { wait(State::at_block_barrier); }
void warp_barrier() { wait(State::at_warp_barrier); }
int lane() { return static_cast<int>(block.current % 32); }
bool lane_exists(int lane) {
  return block.current / 32 * 32 + static_cast<std::size_t>(lane) < block.count;
}
void* lane_slot(int lane) {
  return block.fibers[block.current / 32 * 32 + static_cast<std::size_t>(lane)]->slot;
}

}  // namespace cuda_on_host
