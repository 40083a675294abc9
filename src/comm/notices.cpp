#include "quip/comm/notices.hpp"

#include <exception>

#include "quip/core/matrix.hpp"

namespace quip {
namespace {

constexpr int tag = 1;
// Notices that may wait for a receiver: one with more is not listening.
constexpr std::size_t most_outgoing = 4096;

}  // namespace

NoticeBoard::NoticeBoard(MPI_Comm parent) : comm_(Communicator::duplicate(parent)) {
  sent_.assign(at(comm_.size()), 0);
  listen();
}

NoticeBoard::~NoticeBoard() {
  if (incoming_request_ != MPI_REQUEST_NULL) {
    MPI_Cancel(&incoming_request_);
    MPI_Wait(&incoming_request_, MPI_STATUS_IGNORE);
  }
  for (Outgoing& sending : outgoing_) MPI_Request_free(&sending.request);
}

void NoticeBoard::listen() noexcept {
  MPI_Irecv(&incoming_, sizeof(Notice), MPI_BYTE, MPI_ANY_SOURCE, tag, comm_.get(),
            &incoming_request_);
}

void NoticeBoard::send(int to, const Notice& notice) noexcept {
  try {
    forget_delivered();
    if (outgoing_.size() >= most_outgoing) return;
    Outgoing& sending = outgoing_.emplace_back(Outgoing{notice, MPI_REQUEST_NULL});
    if (MPI_Isend(&sending.notice, sizeof(Notice), MPI_BYTE, to, tag, comm_.get(),
                  &sending.request) == MPI_SUCCESS) {
      ++sent_[at(to)];
    } else {
      outgoing_.pop_back();
    }
  } catch (const std::exception&) {
    return;  // no memory for it
  }
}

bool NoticeBoard::receive(Notice& notice) noexcept {
  int arrived = 0;
  MPI_Test(&incoming_request_, &arrived, MPI_STATUS_IGNORE);
  if (arrived == 0) return false;
  notice = incoming_;
  ++received_;
  listen();
  return true;
}

bool NoticeBoard::settled(std::int64_t expected) noexcept {
  forget_delivered();
  return outgoing_.empty() && received_ >= expected;
}

void NoticeBoard::forget_delivered() noexcept {
  outgoing_.remove_if([](Outgoing& sending) {
    int done = 0;
    MPI_Test(&sending.request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  });
}

}  // namespace quip
