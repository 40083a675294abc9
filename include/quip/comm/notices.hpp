// Small messages between ranks about the job itself, beside its collectives.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "quip/comm/mpi.hpp"

namespace quip {

/// A message in which one rank tells another about itself.
struct Notice {
  enum class Kind : std::int32_t {
    status,   ///< my activity has changed
    call,     ///< answer me if you wait in a collective too
    answer,   ///< I wait
    failure,  ///< I give up
  };
  Kind kind = Kind::status;
  std::int32_t rank = 0;
  std::int64_t entered = 0;           ///< collectives that the sender has entered so far
  double time = 0;                    ///< seconds since the epoch, by the sender's clock
  std::array<char, 24> collective{};  ///< the last entered
  std::array<char, 160> activity{};
};

/// Sends and receives notices without ever waiting: a rank that is stopped or busy holds nobody up.
/// A notice that MPI refuses is lost; nothing depends on its arrival but the wording of a message.
class NoticeBoard {
 public:
  explicit NoticeBoard(MPI_Comm parent);
  ~NoticeBoard();
  NoticeBoard(const NoticeBoard&) = delete;
  NoticeBoard& operator=(const NoticeBoard&) = delete;

  void send(int to, const Notice& notice) noexcept;
  /// Takes the next notice that has arrived; false if there is none.
  [[nodiscard]] bool receive(Notice& notice) noexcept;

  /// Returns the communicator, for collectives that are to disturb no other.
  [[nodiscard]] MPI_Comm comm() const noexcept { return comm_.get(); }
  /// Returns the number of notices sent to each rank so far.
  [[nodiscard]] const std::vector<std::int64_t>& sent() const { return sent_; }
  /// True if MPI has taken all notices of this rank, and `expected` ones have arrived.
  [[nodiscard]] bool settled(std::int64_t expected) noexcept;

 private:
  struct Outgoing {
    Notice notice;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  void forget_delivered() noexcept;
  void listen() noexcept;

  Communicator comm_;
  Notice incoming_;
  MPI_Request incoming_request_ = MPI_REQUEST_NULL;
  std::list<Outgoing> outgoing_;
  std::vector<std::int64_t> sent_;
  std::int64_t received_ = 0;
};

}  // namespace quip
