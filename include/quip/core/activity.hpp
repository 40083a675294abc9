// The work that a process is doing, for messages about a job that stands still.
#pragma once

#include <functional>
#include <string>

namespace quip {

/// The phase of the work and the unit within it. A process does one thing at a time, so there is
/// one Activity; only the main thread changes it.
class Activity {
 public:
  [[nodiscard]] static Activity& current();

  /// Returns the phase before, so that the caller can restore it.
  std::string enter_phase(std::string phase);
  void set_unit(std::string unit);

  /// Returns "phase 'factor' (block 3 of 32, factor down_proj)"; "start-up" at first.
  [[nodiscard]] std::string describe() const;

  /// Calls `listener` after each change, until the next call of `listen`.
  void listen(std::function<void()> listener);

 private:
  void changed() const {
    if (listener_) listener_();
  }

  std::string phase_;
  std::string unit_;
  std::function<void()> listener_;
};

}  // namespace quip
