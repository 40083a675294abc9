// The times of the units of work on one rank, from which a chart of all ranks is drawn.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace quip {

/// Units of one rank, in the order in which they ended. Times are seconds since the Timeline was
/// made. Threads may record side by side.
class Timeline {
 public:
  struct Unit {
    std::string what;
    double start = 0;
    double end = 0;
  };

  /// A unit that lasts until it goes out of scope.
  class Scope {
   public:
    Scope(Timeline& timeline, std::string what)
        : timeline_(timeline), what_(std::move(what)), start_(timeline.now()) {}
    ~Scope() { timeline_.add({std::move(what_), start_, timeline_.now()}); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Timeline& timeline_;
    std::string what_;
    double start_;
  };

  [[nodiscard]] Scope record(std::string what) { return {*this, std::move(what)}; }
  void add(Unit unit) {
    const std::lock_guard lock(mutex_);
    units_.push_back(std::move(unit));
  }
  /// Returns the seconds since the Timeline was made.
  [[nodiscard]] double now() const {
    return std::chrono::duration<double>(Clock::now() - start_).count();
  }
  /// Returns the units so far. Not to be called while other threads record.
  [[nodiscard]] const std::vector<Unit>& units() const { return units_; }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  std::vector<Unit> units_;
};

}  // namespace quip
