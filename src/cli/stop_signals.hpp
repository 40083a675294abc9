// Signals by which a batch system asks a run to end.
#pragma once

namespace quip::cli {

/// The exit status of a run that stopped because it was asked to: EX_TEMPFAIL, "try again".
inline constexpr int exit_stopped = 75;

/// Takes SIGTERM and SIGUSR1 from now on for requests to end after the unit of work in hand; the
/// second one ends the process at once, with the same status.
void heed_stop_signals();
[[nodiscard]] bool stop_signal_received();

}  // namespace quip::cli
