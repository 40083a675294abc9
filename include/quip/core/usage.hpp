// Totals of one process: flops, bytes to other ranks, bytes from and to files.
#pragma once

#include <atomic>
#include <chrono>

#include "quip/core/matrix.hpp"

namespace quip {

/// Totals since the start, or differences of two such totals.
struct Usage {
  double flops = 0;        ///< matrix products, factorisations, transforms (quant/factor/work.hpp)
  index_t bytes_sent = 0;  ///< to other ranks: payload (comm/schedule.hpp)
  index_t bytes_read = 0;  ///< requested from files, cached or not
  index_t bytes_written = 0;         ///< to files
  double communication_seconds = 0;  ///< spent inside collectives, waiting included

  Usage& operator+=(const Usage& other);
  Usage& operator-=(const Usage& other);
  [[nodiscard]] friend Usage operator-(Usage left, const Usage& right) { return left -= right; }
};

/// Counts the work that collectives, files and kernels report; one a process, for all its threads.
/// It only grows: the usage of a stretch of work is the difference of two totals.
class UsageMeter {
 public:
  [[nodiscard]] static UsageMeter& current();

  void add_flops(double flops) { flops_.fetch_add(flops, std::memory_order_relaxed); }
  void add_sent(index_t bytes) { sent_.fetch_add(bytes, std::memory_order_relaxed); }
  void add_read(index_t bytes) { read_.fetch_add(bytes, std::memory_order_relaxed); }
  void add_written(index_t bytes) { written_.fetch_add(bytes, std::memory_order_relaxed); }
  [[nodiscard]] Usage total() const;

  /// Adds the time until it goes out of scope to communication_seconds.
  class Communication {
   public:
    Communication() : start_(Clock::now()) {}
    ~Communication();
    Communication(const Communication&) = delete;
    Communication& operator=(const Communication&) = delete;

   private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point start_;
  };

 private:
  std::atomic<double> flops_ = 0;
  std::atomic<index_t> sent_ = 0;
  std::atomic<index_t> read_ = 0;
  std::atomic<index_t> written_ = 0;
  std::atomic<double> communication_seconds_ = 0;
};

}  // namespace quip
