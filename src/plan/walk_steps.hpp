// The steps that the parts of the walk share.
#pragma once

#include <array>
#include <functional>

#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/device_memory.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

inline constexpr auto float_bytes = static_cast<index_t>(sizeof(float));
inline constexpr auto double_bytes = static_cast<index_t>(sizeof(double));

/// Counts the messages of quip::allocate_on_node.
inline void allocate_on_node(Ledger& ledger, index_t bytes) {
  ledger.vote();
  if (ledger.place().nodes == ledger.size() || bytes == 0) return;
  std::array<std::int64_t, 2> handle{};
  ledger.node_broadcast(std::as_writable_bytes(std::span(handle)));
  ledger.vote();
}

/// Counts the search for the scales of n channels (measure_channels).
void count_channels(Ledger& ledger, index_t n);
/// Counts the sum of a Hessian over this rank's tokens into blocks of all ranks
/// (distributed_hessian).
void count_panels(Ledger& ledger, const BlockCyclic& layout, index_t tokens);
/// Counts its factorisation. Stands for ScaLAPACK, too, whose own exchanges are not counted.
void count_cholesky(Ledger& ledger, const BlockCyclic& layout);

/// What is the same in both streams at a tap.
struct EqualStreams {
  bool inputs = false;
  bool residual = false;
};
/// Counts the targets of layers that read one tap (StreamTarget): nothing is moved for what is the
/// same.
void walk_targets(const PlannedJob& job, const Layout& layout, const LayerList& readers,
                  EqualStreams equal, Ledger& ledger);

/// Counts what a rank does with the layers of a block once their inputs are captured.
void walk_layers(const PlannedJob& job, const Layout& layout, const BlockKind& kind,
                 Ledger& ledger);

/// Counts what it does instead with --target stream, from the block's inputs to its outputs or, if
/// it has experts, to what these read. `begins`: nothing is quantized before.
void walk_streams(const PlannedJob& job, const Layout& layout, const BlockKind& kind, bool begins,
                  Ledger& ledger);

/// Counts what it does with a block's experts, as though all were routed equally many tokens.
/// `load` counts the loading of one linear.
void walk_experts(const PlannedJob& job, const Layout& layout, const BlockKind& kind,
                  Ledger& ledger, const std::function<void(const LinearSpec&)>& load);

}  // namespace quip::plan
