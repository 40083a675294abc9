#include "quip/comm/stall_watch.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <sched.h>
#include <unistd.h>
#include <utility>

#include "quip/comm/job.hpp"
#include "quip/core/activity.hpp"
#include "quip/core/error.hpp"
#include "quip/core/matrix.hpp"

namespace quip {
namespace {

// A waiting rank polls this often, about 20 µs, before it looks at the clock and yields its core.
constexpr int eager_polls = 200;
// A call of the roll and a failing rank listen this long: ranks that share a core answer late.
constexpr double listening_seconds = 1.0;
constexpr double failure_seconds = 0.3;
// A gap between polls longer than this is time in which this process did not run.
constexpr double longest_gap = 1.0;
// Ranks to which all others report. Two, since one of them may be the one that is stopped.
constexpr int witnesses = 2;

constexpr std::size_t host_bytes = 64;

/// Copies as much of `text` as there is room for, zero-terminated.
template <std::size_t Size>
void fill(std::array<char, Size>& room, const std::string& text) {
  room.fill('\0');
  std::copy_n(text.begin(), std::min(text.size(), Size - 1), room.begin());
}

double seconds_since_epoch() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::vector<std::string> gather_hosts(MPI_Comm comm, int size) {
  std::array<char, host_bytes> mine{};
  ::gethostname(mine.data(), mine.size() - 1);
  std::vector<char> all(at(size) * host_bytes);
  QUIP_MPI(
      MPI_Allgather(mine.data(), host_bytes, MPI_CHAR, all.data(), host_bytes, MPI_CHAR, comm));
  std::vector<std::string> hosts;
  for (std::size_t r = 0; r < at(size); ++r) {
    hosts.emplace_back(all.data() + r * host_bytes);
  }
  return hosts;
}

}  // namespace

StallWatch::StallWatch(MPI_Comm parent) : board_(parent) {
  QUIP_MPI(MPI_Comm_rank(parent, &rank_));
  QUIP_MPI(MPI_Comm_size(parent, &size_));
  hosts_ = gather_hosts(parent, size_);
  known_.resize(at(size_));
  answered_.resize(at(size_));
  tell_witnesses();
  Activity::current().listen([this] { tell_witnesses(); });
}

StallWatch::~StallWatch() {
  Activity::current().listen({});
  try {
    std::int64_t expected = 0;
    MPI_Request request = MPI_REQUEST_NULL;
    QUIP_MPI(MPI_Ireduce_scatter_block(board_.sent().data(), &expected, 1, MPI_INT64_T, MPI_SUM,
                                       board_.comm(), &request));
    wait(request, "shutdown");
    begin_wait();
    while (!board_.settled(expected)) poll();
  } catch (const std::exception&) {
    return;  // MPI is failing: MPI_Finalize will say so
  }
}

Notice StallWatch::notice(Notice::Kind kind) const {
  Notice notice{.kind = kind, .rank = rank_, .entered = entered_, .time = seconds_since_epoch()};
  fill(notice.collective, collective_);
  fill(notice.activity, Activity::current().describe());
  return notice;
}

void StallWatch::tell_witnesses() noexcept {
  try {
    const Notice mine = notice(Notice::Kind::status);
    for (int witness = 0; witness < std::min(witnesses, size_); ++witness) {
      if (witness != rank_) board_.send(witness, mine);
    }
  } catch (const std::exception&) {
    return;  // no memory to describe it
  }
}

void StallWatch::wait(MPI_Request& request, const char* collective) {
  ++entered_;
  collective_ = collective;
  if (rank_ < witnesses) read_notices();  // so that they do not pile up
  int done = 0;
  const auto test = [&] {
    const int code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS) {
      fail("{} failed in {}: {}", collective, Activity::current().describe(), mpi_text(code));
    }
    return done != 0;
  };
  for (int i = 0; i < eager_polls; ++i) {
    if (test()) return;
  }
  begin_wait();
  while (!test()) {
    poll();
    ::sched_yield();
  }
  calling_ = false;
}

void StallWatch::begin_wait() {
  last_poll_ = Clock::now();
  waited_ = 0;
  // A witness knows most, so it is the first to lose patience.
  patience_ = timeout_ + std::min(rank_, witnesses) * listening_seconds;
  calling_ = false;
  all_were_present_ = false;
}

void StallWatch::poll() {
  const auto now = Clock::now();
  waited_ += std::min(std::chrono::duration<double>(now - last_poll_).count(), longest_gap);
  last_poll_ = now;
  read_notices();
  if (timeout_ <= 0) return;
  if (calling_) {
    const bool complete = std::find(answered_.begin(), answered_.end(), false) == answered_.end();
    if (complete || waited_ >= call_ends_) conclude();
  } else if (waited_ >= patience_) {
    call_roll();
  }
}

void StallWatch::read_notices() {
  Notice notice;
  while (board_.receive(notice)) heed(notice);
}

void StallWatch::heed(const Notice& notice) {
  const auto sender = at(notice.rank);
  known_[sender] = notice;
  switch (notice.kind) {
    case Notice::Kind::status:
      break;
    case Notice::Kind::call:
      board_.send(notice.rank, this->notice(Notice::Kind::answer));
      if (notice.rank < rank_) {  // it goes on for both
        calling_ = false;
        patience_ = waited_ + timeout_;
      } else if (rank_ < witnesses && !calling_ && notice.entered >= entered_) {
        call_roll();
      }
      break;
    case Notice::Kind::answer:
      answered_[sender] = true;
      break;
    case Notice::Kind::failure:
      lower_rank_failed_ = lower_rank_failed_ || notice.rank < rank_;
      break;
  }
}

void StallWatch::call_roll() {
  calling_ = true;
  call_ends_ = waited_ + listening_seconds;
  answered_.assign(answered_.size(), false);
  answered_[at(rank_)] = true;
  const Notice call = notice(Notice::Kind::call);
  for (int r = 0; r < size_; ++r) {
    if (r != rank_) board_.send(r, call);
  }
}

Stall StallWatch::take_stock() const {
  Stall stall;
  stall.rank = rank_;
  stall.host = hosts_[at(rank_)];
  stall.collective = collective_;
  stall.activity = Activity::current().describe();
  stall.seconds = waited_;
  stall.timeout = timeout_;
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    const auto i = at(r);
    const Notice& last = known_[i];
    Stall::Other other{
        r, hosts_[i], {}, last.activity.data(), std::max(0.0, seconds_since_epoch() - last.time)};
    if (!answered_[i]) {
      (last.entered < entered_ ? stall.missing : stall.gone_on).push_back(std::move(other));
    } else if (last.entered < entered_ ||
               (last.entered == entered_ && last.collective.data() != stall.collective)) {
      other.collective = last.collective.data();
      stall.elsewhere.push_back(std::move(other));
    }
  }
  return stall;
}

void StallWatch::conclude() {
  calling_ = false;
  const Stall stall = take_stock();
  const bool all_present =
      stall.missing.empty() && stall.elsewhere.empty() && stall.gone_on.empty();
  if (all_present && !all_were_present_) {
    // The last rank has only just come: its data get the full time.
    all_were_present_ = true;
    patience_ = waited_ + timeout_;
    return;
  }
  report_error(describe(stall));
  abort_job(exit_stalled);
}

bool StallWatch::speaks_for_failure() {
  const Notice mine = notice(Notice::Kind::failure);
  for (int r = rank_ + 1; r < size_; ++r) board_.send(r, mine);
  const auto start = Clock::now();
  do {
    read_notices();
    ::sched_yield();
  } while (rank_ > 0 && !lower_rank_failed_ &&
           Clock::now() - start < std::chrono::duration<double>(failure_seconds));
  return !lower_rank_failed_;
}

}  // namespace quip
