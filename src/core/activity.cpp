#include "quip/core/activity.hpp"

#include <utility>

#include <fmt/format.h>

namespace quip {

Activity& Activity::current() {
  static Activity activity;
  return activity;
}

std::string Activity::enter_phase(std::string phase) {
  std::swap(phase, phase_);
  changed();
  return phase;
}

void Activity::set_unit(std::string unit) {
  unit_ = std::move(unit);
  changed();
}

std::string Activity::describe() const {
  if (phase_.empty()) return unit_.empty() ? "start-up" : unit_;
  if (unit_.empty()) return fmt::format("phase '{}'", phase_);
  return fmt::format("phase '{}' ({})", phase_, unit_);
}

void Activity::listen(std::function<void()> listener) { listener_ = std::move(listener); }

}  // namespace quip
