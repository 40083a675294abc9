// What the parts of the walk share.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "quip/plan/ledger.hpp"

namespace quip::plan {

inline const std::string a_digest(32, '0');
inline constexpr auto float_bytes = static_cast<index_t>(sizeof(float));
inline constexpr auto double_bytes = static_cast<index_t>(sizeof(double));

/// For `agree`: what is done costs nothing on paper.
inline void do_nothing() {}

/// Messages of allocate_on_node.
inline void allocate_on_node(Ledger& ledger, index_t bytes) {
  agree(ledger, do_nothing);
  if (ledger.place().nodes == ledger.size() || bytes == 0) return;
  std::array<std::int64_t, 2> handle{};
  ledger.node_broadcast(std::as_writable_bytes(std::span(handle)));
  agree(ledger, do_nothing);
}

}  // namespace quip::plan
