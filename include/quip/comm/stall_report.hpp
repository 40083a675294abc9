// The one line that says which rank keeps a job waiting.
#pragma once

#include <string>
#include <vector>

namespace quip {

/// What a waiting rank knows when a collective makes no progress.
struct Stall {
  struct Other {
    int rank = 0;
    std::string host;
    std::string collective;  ///< that it waits in, if it waits
    std::string activity;    ///< empty if it never told this rank
    double seconds_ago = 0;  ///< since it told
  };
  int rank = 0;
  std::string host;
  std::string collective;
  std::string activity;
  double seconds = 0;  ///< waited so far
  double timeout = 0;
  std::vector<Other> missing;    ///< not in any collective
  std::vector<Other> elsewhere;  ///< in another, or still in an earlier one
  std::vector<Other> gone_on;    ///< known to have left it, now not in any
};

/// Names up to three of the ranks that are missing; if none is, of those elsewhere; then of those
/// gone on.
[[nodiscard]] std::string describe(const Stall& stall);

}  // namespace quip
