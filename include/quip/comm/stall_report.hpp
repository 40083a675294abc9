// The one line that says which rank keeps a job waiting.
#pragma once

#include <string>
#include <vector>

namespace quip {

/// The knowledge of a waiting rank when a collective makes no progress.
struct Stall {
  struct Other {
    int rank = 0;
    std::string host;
    std::string collective;  ///< the one in which it waits, if it waits
    std::string activity;    ///< empty if it never told this rank
    double seconds_ago = 0;  ///< age of that activity
  };
  int rank = 0;
  std::string host;
  std::string collective;
  std::string activity;
  double seconds = 0;  ///< time waited so far
  double timeout = 0;
  std::vector<Other> missing;    ///< ranks in no collective
  std::vector<Other> elsewhere;  ///< ranks in another, or still in an earlier one
  std::vector<Other> gone_on;    ///< ranks that have left it and are in none now
};

/// Names up to three of the missing ranks; if there are none, of those elsewhere, or else gone on.
[[nodiscard]] std::string describe(const Stall& stall);

}  // namespace quip
