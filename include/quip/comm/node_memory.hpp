// Memory that the ranks of a node have in common.
#pragma once

#include <memory>

#include "quip/comm/collectives.hpp"

namespace quip {

/// Allocates `bytes` of unspecified content, aligned to 64 bytes, that exist once on a node: writes
/// of one of its ranks are visible to the others after `node_barrier`. Freed when the last rank
/// lets go of it, and with the processes if they are killed: it has no name. Collective over all
/// ranks; throws AgreedError if there is no memory.
[[nodiscard]] std::shared_ptr<std::byte> allocate_on_node(Collectives& comm, index_t bytes);

/// Allocates them for one rank alone. Not collective; throws std::bad_alloc.
[[nodiscard]] std::shared_ptr<std::byte> allocate_privately(index_t bytes);

}  // namespace quip
