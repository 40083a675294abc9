// A communicator of NCCL that never blocks for longer than it is allowed to.
#pragma once

#include <functional>
#include <string_view>

#include "device.hpp"
#include <nccl.h>

#include "quip/comm/collectives.hpp"

namespace quip::cuda {

/// NCCL starts operations without blocking and is polled: a rank that died, a broken link or a
/// time-out ends in an Error naming the operation, after the communicator has been aborted (as
/// NCCL wants it: nothing else gets a kernel off the device that waits for others).
class NcclCommunicator {
 public:
  /// Collective over `host`, which carries the identifier. `timeout` in seconds; 0: none.
  NcclCommunicator(Collectives& host, double timeout);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// Runs `start(communicator)`, which issues operations on `stream`, and returns when they are
  /// done.
  void run(const char* what, const Stream& stream,
           const std::function<ncclResult_t(ncclComm_t)>& start);

 private:
  void settle(const char* what, ncclResult_t code);
  template <typename Done>
  void poll(const char* what, const Done& done);
  [[noreturn]] void abort(const char* what, std::string_view why);

  ncclComm_t comm_ = nullptr;
  double timeout_;
};

}  // namespace quip::cuda
