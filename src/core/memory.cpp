#include "quip/core/memory.hpp"

#include <atomic>
#include <unistd.h>

namespace quip {
namespace {

std::atomic<std::int64_t> held{0};
std::atomic<std::int64_t> most{0};

}  // namespace

void HeldMemory::add(std::int64_t bytes) noexcept {
  const std::int64_t sum = held.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  std::int64_t before = most.load(std::memory_order_relaxed);
  while (before < sum && !most.compare_exchange_weak(before, sum, std::memory_order_relaxed)) {
  }
}

void HeldMemory::drop(std::int64_t bytes) noexcept {
  held.fetch_sub(bytes, std::memory_order_relaxed);
}

std::int64_t HeldMemory::now() noexcept { return held.load(std::memory_order_relaxed); }

std::int64_t HeldMemory::peak() noexcept { return most.load(std::memory_order_relaxed); }

void HeldMemory::restart_peak() noexcept { most.store(now(), std::memory_order_relaxed); }

double installed_memory() noexcept {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<double>(::sysconf(_SC_PAGESIZE));
}

}  // namespace quip
