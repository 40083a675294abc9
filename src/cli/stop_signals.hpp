// How a batch system asks a run to end.
#pragma once

namespace quip::cli {

/// The exit status of a run that stopped because it was asked to: EX_TEMPFAIL, "try again".
inline constexpr int exit_stopped = 75;

/// While it lives, SIGTERM and SIGUSR1 ask the run to end after the unit of work in hand; the
/// second one ends the process at once, with the same status.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  [[nodiscard]] static bool received();
};

}  // namespace quip::cli
