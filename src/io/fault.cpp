#include "fault.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

#include <fmt/format.h>

namespace quip {
namespace {

struct Fault {
  std::string kind;
  std::string argument;

  static Fault from_environment() {
    const char* text = std::getenv("QUIP_FAULT");
    const std::string spec = text == nullptr ? "" : text;
    const auto colon = spec.find(':');
    if (colon == std::string::npos) return {};
    return {spec.substr(0, colon), spec.substr(colon + 1)};
  }
};

}  // namespace

int injected_fault(std::string_view operation, const std::filesystem::path& path) {
  static const Fault fault = Fault::from_environment();
  static std::atomic<long> count = 0;
  if (fault.kind.empty()) return 0;
  const long number = ++count;
  if (fault.kind == "trace") {
    std::ofstream(fault.argument, std::ios::app)
        << fmt::format("{} {} {}\n", number, operation, path.filename().string());
    return 0;
  }
  const long from = std::strtol(fault.argument.c_str(), nullptr, 10);
  if (fault.kind == "kill" && number == from) static_cast<void>(std::raise(SIGKILL));
  if (fault.kind == "ENOSPC" && number >= from) return ENOSPC;
  if (fault.kind == "EROFS" && number >= from) return EROFS;
  return 0;
}

}  // namespace quip
