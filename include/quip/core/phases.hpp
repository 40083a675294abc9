// Time, arithmetic and bytes of one rank, booked to the named phases of its job.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/activity.hpp"
#include "quip/core/timeline.hpp"
#include "quip/core/usage.hpp"

namespace quip {

struct Phase {
  std::string name;
  double seconds = 0;
  Usage usage;
};

/// Phases in order of first appearance. Every moment since the Phases were made, and everything
/// that UsageMeter counts, belongs to exactly one phase: that of the innermost Scope, or `other`
/// where there is none. Used by the rank's main thread; bytes that other threads move count for the
/// phase that is on.
class Phases {
 public:
  static constexpr const char* other = "other";

  /// One phase, named to Activity too, until it goes out of scope.
  class Scope {
   public:
    Scope(Phases& phases, std::size_t phase)
        : phases_(phases),
          outer_(phases.enter(phase)),
          before_(Activity::current().enter_phase(phases.phases_[phase].name)) {}
    ~Scope() {
      phases_.enter(outer_);
      Activity::current().enter_phase(std::move(before_));
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Phases& phases_;
    std::size_t outer_;
    std::string before_;
  };

  Phases() : phases_{Phase{.name = other, .seconds = 0, .usage = {}}} {}

  [[nodiscard]] Scope measure(const std::string& name) { return {*this, find(name)}; }
  /// Returns the phases, each with its usage up to now.
  [[nodiscard]] const std::vector<Phase>& all() {
    enter(current_);
    return phases_;
  }
  [[nodiscard]] Timeline& timeline() { return timeline_; }
  /// Decides if the timeline gets every stretch of a phase from now on. Too much for a whole job.
  void chart(bool on) {
    enter(current_);
    charting_ = on;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::size_t find(const std::string& name) {
    for (std::size_t i = 0; i < phases_.size(); ++i) {
      if (phases_[i].name == name) return i;
    }
    phases_.push_back(Phase{.name = name, .seconds = 0, .usage = {}});
    return phases_.size() - 1;
  }

  /// Books the time and usage since then to the current phase, returns it and goes on with `next`.
  std::size_t enter(std::size_t next) {
    const Clock::time_point now = Clock::now();
    const Usage total = UsageMeter::current().total();
    Phase& phase = phases_[current_];
    phase.seconds += std::chrono::duration<double>(now - since_).count();
    phase.usage += total - before_;
    const double ended = timeline_.now();
    if (charting_ && current_ != 0) timeline_.add({phase.name, charted_, ended});
    charted_ = ended;
    since_ = now;
    before_ = total;
    return std::exchange(current_, next);
  }

  std::vector<Phase> phases_;
  std::size_t current_ = 0;
  Clock::time_point since_ = Clock::now();
  Usage before_ = UsageMeter::current().total();
  Timeline timeline_;
  bool charting_ = false;
  double charted_ = 0;  ///< since_ on the timeline
};

}  // namespace quip
