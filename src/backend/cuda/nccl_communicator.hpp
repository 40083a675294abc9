// A communicator of NCCL that never blocks for longer than it is allowed to.
#pragma once

#include <functional>
#include <string_view>

#include "device.hpp"
#include <nccl.h>

#include "quip/comm/collectives.hpp"

namespace quip::cuda {

/// True on all ranks if a GPU serves several ranks of `host`, which NCCL refuses (collective).
[[nodiscard]] bool ranks_share_gpus(Collectives& host);

/// NCCL starts operations without blocking and is polled: a rank that died, a broken link or a
/// time-out ends in an Error naming the operation, after the communicator has been aborted (as
/// NCCL wants it: nothing else gets a kernel off the device that waits for others).
class NcclCommunicator {
 public:
  /// Calls return at once and are polled, or when NCCL has taken them up, as a library must have it
  /// that does not know of calls still under way. What is done on streams is polled anyway.
  enum class Calls { polled, blocking };

  /// The first `ranks` ranks of `host`, which carries the identifier (collective over all of it;
  /// the others get nothing that runs). `timeout` in seconds; 0: none.
  NcclCommunicator(Collectives& host, int ranks, Calls calls, double timeout);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// Runs `start(communicator)`, which issues operations on `stream`, and returns when they are
  /// done.
  void run(const char* what, const Stream& stream,
           const std::function<ncclResult_t(ncclComm_t)>& start);
  [[nodiscard]] double timeout() const noexcept { return timeout_; }
  /// For libraries that communicate themselves; null after a failure.
  [[nodiscard]] ncclComm_t get() const noexcept { return comm_; }

 private:
  void settle(const char* what, ncclResult_t code);
  template <typename Done>
  void poll(const char* what, const Done& done);
  [[noreturn]] void abort(const char* what, std::string_view why);

  ncclComm_t comm_ = nullptr;
  double timeout_;
};

}  // namespace quip::cuda
