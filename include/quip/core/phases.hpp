// Where the time goes: named phases with seconds, flops and bytes.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/activity.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

struct Phase {
  std::string name;
  double seconds = 0;
  double flops = 0;        ///< of this rank
  index_t bytes_sent = 0;  ///< by this rank
};

/// Phases in order of first appearance.
class Phases {
 public:
  /// Adds the time until it goes out of scope to one phase, and names it as what is being done.
  class Scope {
   public:
    explicit Scope(Phase& phase)
        : phase_(phase),
          before_(Activity::current().enter_phase(phase.name)),
          start_(Clock::now()) {}
    ~Scope() {
      phase_.seconds += std::chrono::duration<double>(Clock::now() - start_).count();
      Activity::current().enter_phase(std::move(before_));
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    void add_flops(double flops) { phase_.flops += flops; }
    void add_bytes_sent(index_t bytes) { phase_.bytes_sent += bytes; }

   private:
    using Clock = std::chrono::steady_clock;
    Phase& phase_;
    std::string before_;
    Clock::time_point start_;
  };

  [[nodiscard]] Scope measure(const std::string& name) { return Scope(find(name)); }
  [[nodiscard]] const std::vector<Phase>& all() const { return phases_; }
  [[nodiscard]] std::vector<Phase>& all() { return phases_; }

 private:
  Phase& find(const std::string& name) {
    for (Phase& phase : phases_) {
      if (phase.name == name) return phase;
    }
    phases_.reserve(32);  // scopes hold references
    return phases_.emplace_back(Phase{name});
  }
  std::vector<Phase> phases_;
};

}  // namespace quip
