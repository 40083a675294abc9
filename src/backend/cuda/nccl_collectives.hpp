// Collectives between GPUs.
#pragma once

#include <memory>

#include "context.hpp"

#include "quip/comm/collectives.hpp"

namespace quip::cuda {

/// Collectives over the GPUs of the ranks of `host`, which stays in use for what is small, on the
/// host, or about nodes. Spans may be device memory; large sums and broadcasts of host memory go
/// through the devices, whose links are faster. Collective. An operation that makes no progress for
/// `timeout` seconds (0: never) is aborted and throws Error. Null if the ranks of a node share a
/// GPU, which NCCL refuses, if there is one rank, or in a build without NCCL.
[[nodiscard]] std::unique_ptr<Collectives> make_nccl_collectives(Context& context,
                                                                 Collectives& host, double timeout);

}  // namespace quip::cuda
