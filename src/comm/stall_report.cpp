#include "quip/comm/stall_report.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace quip {
namespace {

constexpr std::size_t most_named = 3;

std::string list(const std::vector<Stall::Other>& ranks, const char* predicate) {
  std::string text;
  for (std::size_t i = 0; i < std::min(ranks.size(), most_named); ++i) {
    const Stall::Other& other = ranks[i];
    text += fmt::format("; rank {} (host {}) {}{}", other.rank, other.host, predicate,
                        other.collective);
    if (!other.activity.empty()) {
      text += fmt::format(", last seen {:.0f} s ago in {}", other.seconds_ago, other.activity);
    }
  }
  if (ranks.size() > most_named) text += fmt::format("; and {} more", ranks.size() - most_named);
  return text;
}

}  // namespace

std::string describe(const Stall& stall) {
  std::string text =
      fmt::format("rank {} (host {}) has waited {:.0f} s in {}, {}, without progress", stall.rank,
                  stall.host, stall.seconds, stall.collective, stall.activity);
  if (!stall.missing.empty()) {
    text += list(stall.missing, "is missing from it");
  } else if (!stall.elsewhere.empty()) {
    text += list(stall.elsewhere, "waits in another one, ");
  } else if (!stall.gone_on.empty()) {
    text += list(stall.gone_on, "has left it and no longer serves it");
  } else {
    text += "; all ranks have entered it, so the network or the MPI library is at fault";
  }
  return text + fmt::format(" (--stall-timeout {:g})", stall.timeout);
}

}  // namespace quip
