#include "stop_signals.hpp"

#include <csignal>
#include <unistd.h>

namespace quip::cli {
namespace {

volatile std::sig_atomic_t count = 0;

extern "C" void on_signal(int /*number*/) {
  if (count > 0) ::_exit(exit_stopped);
  count = 1;
}

}  // namespace

void heed_stop_signals() {
  std::signal(SIGTERM, on_signal);
  std::signal(SIGUSR1, on_signal);
}

bool stop_signal_received() { return count > 0; }

}  // namespace quip::cli
