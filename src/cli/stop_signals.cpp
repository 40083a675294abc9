#include "stop_signals.hpp"

#include <array>
#include <csignal>
#include <unistd.h>

namespace quip::cli {
namespace {

constexpr std::array signals{SIGTERM, SIGUSR1};

volatile std::sig_atomic_t count = 0;

extern "C" void on_signal(int /*number*/) {
  if (count > 0) ::_exit(exit_stopped);
  count = 1;
}

}  // namespace

StopSignals::StopSignals() {
  count = 0;
  for (const int number : signals) std::signal(number, on_signal);
}

StopSignals::~StopSignals() {
  for (const int number : signals) std::signal(number, SIG_DFL);
}

bool StopSignals::received() { return count > 0; }

}  // namespace quip::cli
