// Waits for collectives with an eye on the clock, and names the rank that keeps the others waiting.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "quip/comm/notices.hpp"
#include "quip/comm/stall_report.hpp"

namespace quip {

/// Seconds without progress after which a job is given up unless told otherwise.
constexpr double default_stall_timeout = 1800;

/// Every rank tells two witnesses, ranks 0 and 1, when its phase or unit changes. A rank whose
/// collective has not completed within the timeout calls the roll: all ranks that wait in a
/// collective answer, because they poll; one that is stopped, lost or busy does not. The caller
/// then names those that are missing, with what a witness last heard of them, and ends the job with
/// exit_stalled. Of several callers the lowest rank goes on, and a witness that waits too takes
/// over from the others, so that one line is printed.
///
/// A rank's own long work is no stall while it is shorter than the timeout.
class StallWatch {
 public:
  /// Duplicates `parent`, a group of at least two ranks (collective).
  explicit StallWatch(MPI_Comm parent);
  /// Receives all notices that are under way (collective).
  ~StallWatch();
  StallWatch(const StallWatch&) = delete;
  StallWatch& operator=(const StallWatch&) = delete;

  /// Sets the timeout, the same on all ranks; 0: wait for ever.
  void set_timeout(double seconds) { timeout_ = seconds; }
  [[nodiscard]] double timeout() const noexcept { return timeout_; }

  /// Completes `request`, which belongs to the collective of that name. Gives way to other
  /// processes while it waits. Throws Error if MPI reports one; ends the job if it stalls.
  void wait(MPI_Request& request, const char* collective);

  /// Counts a collective of others in which this rank has no part: ranks are compared by the number
  /// of collectives that they have entered.
  void pass() { ++entered_; }

  /// Tells the others that this rank gives up. True if it is the lowest of those that do at about
  /// the same time, and hence the one to say why.
  [[nodiscard]] bool speaks_for_failure();

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] Notice notice(Notice::Kind kind) const;
  void tell_witnesses() noexcept;
  void begin_wait();
  void poll();
  void read_notices();
  void heed(const Notice& notice);
  void call_roll();
  [[nodiscard]] Stall take_stock() const;
  void conclude();

  NoticeBoard board_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<std::string> hosts_;
  std::vector<Notice> known_;  ///< the latest of each rank
  bool lower_rank_failed_ = false;
  double timeout_ = default_stall_timeout;

  // The present wait.
  const char* collective_ = "";
  std::int64_t entered_ = 0;
  Clock::time_point last_poll_;
  double waited_ = 0;    ///< seconds, not counting those in which this process itself was stopped
  double patience_ = 0;  ///< calls the roll when waited_ reaches it
  bool calling_ = false;
  double call_ends_ = 0;
  std::vector<bool> answered_;
  bool all_were_present_ = false;
};

}  // namespace quip
