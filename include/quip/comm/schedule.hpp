// The schedule of a collective on P ranks, and the bytes that each of them sends. Pure arithmetic:
// `quip plan` asks for numbers of ranks that are not there.
#pragma once

#include <span>

#include "quip/core/matrix.hpp"

namespace quip {

/// MPI-3 counts are int: larger payloads go in pieces of this many bytes.
constexpr index_t piece_bytes = index_t{1} << 30;

/// Sums and broadcasts of host memory from this size on go through the devices where every rank has
/// its own: a smaller one is over before the copies to a device and back would be.
constexpr index_t between_devices_from = index_t{4} << 20;
/// Large sums are handed over, and messages pass through a device, in pieces of about this size:
/// extra memory is bounded, and no piece of a large sum is too short for the devices.
constexpr index_t staged_bytes = index_t{64} << 20;
static_assert(staged_bytes > 2 * between_devices_from);

/// Returns the bytes of a sum by shares that are in work at a time: 64 KiB a rank, so that caches
/// hold them and messages are long enough, within limits that memory allows.
[[nodiscard]] index_t shared_piece_bytes(int size);
/// Returns the bytes of a broadcast by shares that are in work at a time.
[[nodiscard]] index_t broadcast_piece_bytes(int size);

/// True if a sum of this many bytes goes by shares (every rank adds one part, then all gather):
/// where that is faster than MPI_Iallreduce, which Open MPI does in a binomial tree when in place:
/// 2 log₂(P) times the payload instead of 2.
[[nodiscard]] bool sums_by_shares(index_t bytes);
/// True if a broadcast goes by shares: MPI_Ibcast is a flat tree, beyond 4 ranks a binomial one.
[[nodiscard]] bool broadcasts_by_shares(index_t bytes, int size);

// The following count payload bytes that `rank` of `size` sends in one collective; 0 for one rank.
// By shares they are those that the schedule hands to MPI. Otherwise, where MPI's own algorithm
// does the work, the least that any needs: a rank's share of an all-reduce, and of a broadcast all
// that the others receive, counted for the root although others may pass it on.

/// Returns the bytes sent for a sum of `count` doubles on all ranks.
[[nodiscard]] index_t sent_by_sum(index_t count, int rank, int size);
/// Returns the bytes sent for a maximum of `bytes` bytes on all ranks.
[[nodiscard]] index_t sent_by_maximum(index_t bytes, int size);
[[nodiscard]] index_t sent_by_broadcast(index_t bytes, int root, int rank, int size);
/// Returns the bytes sent for a gather; `offsets` as in Collectives::all_gather_bytes.
[[nodiscard]] index_t sent_by_gather(std::span<const index_t> offsets, int rank, int size);

}  // namespace quip
