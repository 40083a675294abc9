#include "nccl_communicator.hpp"

#include <chrono>
#include <span>
#include <thread>

#include "check.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda {

bool ranks_share_gpus(Collectives& host) {
  int devices = 0;
  QUIP_CUDA(cudaGetDeviceCount(&devices));
  double sharing = host.place().machine_size > devices ? 1 : 0;  // of any machine
  host.all_reduce_sum(std::span(&sharing, 1));
  return sharing > 0;
}

NcclCommunicator::NcclCommunicator(Collectives& host, int ranks, Calls calls, double timeout)
    : timeout_(timeout) {
  ncclUniqueId id{};
  agree(host, [&] {
    if (host.rank() == 0 && ncclGetUniqueId(&id) != ncclSuccess) {
      fail("NCCL: cannot start: {}; --backend cpu works without it", ncclGetLastError(nullptr));
    }
  });
  host.broadcast_value(id, 0);
  if (host.rank() >= ranks) return;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = calls == Calls::blocking ? 1 : 0;
  settle("connecting the GPUs", ncclCommInitRankConfig(&comm_, ranks, id, host.rank(), &config));
}

NcclCommunicator::~NcclCommunicator() {
  if (comm_ == nullptr) return;
  // Destroying is a collective of sorts; aborting frees the same without waiting for anybody.
  static_cast<void>(ncclCommAbort(comm_));
}

void NcclCommunicator::run(const char* what, const Stream& stream,
                           const std::function<ncclResult_t(ncclComm_t)>& start) {
  if (comm_ == nullptr) fail("NCCL: {} after a failure", what);
  settle(what, start(comm_));
  const Event done;
  done.record(stream);
  poll(what, [&] {
    const cudaError_t state = cudaEventQuery(done.get());
    if (state != cudaErrorNotReady) check(state, what, __FILE__, __LINE__);
    return state == cudaSuccess;
  });
}

/// A call that was issued: NCCL may still be busy with it on the host.
void NcclCommunicator::settle(const char* what, ncclResult_t code) {
  if (code != ncclSuccess && code != ncclInProgress) abort(what, ncclGetErrorString(code));
  poll(what, [&] {
    ncclResult_t state = ncclSuccess;
    if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return true;  // poll will say why
    return state != ncclInProgress;
  });
}

template <typename Done>
void NcclCommunicator::poll(const char* what, const Done& done) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (int round = 0;; ++round) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
    if (asked != ncclSuccess) abort(what, ncclGetErrorString(asked));
    if (state != ncclSuccess && state != ncclInProgress) abort(what, ncclGetErrorString(state));
    if (done()) return;
    const std::chrono::duration<double> waited = Clock::now() - begin;
    if (timeout_ > 0 && waited.count() > timeout_) {
      abort(what,
            fmt::format("no progress for {:g} s (--stall-timeout): a rank is stuck or gone, or "
                        "a link is down",
                        timeout_));
    }
    if (round > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void NcclCommunicator::abort(const char* what, std::string_view why) {
  const std::string detail = ncclGetLastError(comm_);
  if (comm_ != nullptr) static_cast<void>(ncclCommAbort(comm_));
  comm_ = nullptr;
  fail("NCCL: {} failed: {}{}{}", what, why, detail.empty() ? "" : "; ", detail);
}

}  // namespace quip::cuda
