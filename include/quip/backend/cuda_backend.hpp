// The GPUs of this machine, and the backend on one of them.
#pragma once

#include <memory>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"

namespace quip {

/// True if this build has the CUDA backend.
[[nodiscard]] bool cuda_is_built();

/// Returns the number of usable GPUs; 0 in a build without CUDA, or where there is no driver.
[[nodiscard]] int cuda_device_count();

/// Makes the backend on GPU `turn.rank mod cuda_device_count()`, which it shares fairly with
/// others; `threads` are for the work that stays on the host. Throws Error if there is no GPU.
[[nodiscard]] std::unique_ptr<Backend> make_cuda_backend(int threads, DeviceTurn turn);

/// Makes collectives between the devices of the ranks of `host`, which has to outlive them
/// (collective). An operation that makes no progress for `timeout` seconds (0: never) is aborted
/// and throws Error. Null where there are none: a backend without devices, one rank, ranks that
/// share a GPU, or a build without NCCL.
[[nodiscard]] std::unique_ptr<Collectives> make_device_collectives(Backend& backend,
                                                                   Collectives& host,
                                                                   double timeout);

}  // namespace quip
