#include "quip/comm/schedule.hpp"

#include <algorithm>

#include "quip/comm/collectives.hpp"

namespace quip {
namespace {

constexpr index_t sum_by_shares_from = index_t{256} << 10;
constexpr index_t broadcast_by_shares_from = index_t{1} << 20;
constexpr int broadcast_by_shares_ranks = 4;

/// Returns Σ of_piece(length) over the pieces of `total`; all but the last are `step` long.
template <typename OfPiece>
index_t over_pieces(index_t total, index_t step, const OfPiece& of_piece) {
  const index_t rest = total % step;
  return (total / step) * of_piece(step) + (rest > 0 ? of_piece(rest) : 0);
}

}  // namespace

index_t shared_piece_bytes(int size) {
  return std::clamp(index_t{size} << 16, index_t{1} << 20, index_t{1} << 26);
}

index_t broadcast_piece_bytes(int size) { return 4 * shared_piece_bytes(size); }

bool sums_by_shares(index_t bytes) { return bytes >= sum_by_shares_from; }

bool broadcasts_by_shares(index_t bytes, int size) {
  return size >= broadcast_by_shares_ranks && bytes >= broadcast_by_shares_from;
}

index_t sent_by_sum(index_t count, int rank, int size) {
  constexpr auto element = static_cast<index_t>(sizeof(double));
  if (size == 1) return 0;
  if (!sums_by_shares(count * element)) return sent_by_maximum(count * element, size);
  // First the shares of the others go to them, then the sum of the own share goes to each.
  return over_pieces(count, shared_piece_bytes(size) / element, [&](index_t length) {
    const index_t mine = share_of(length, rank, size).count();
    return element * (length - mine + mine * (size - 1));
  });
}

index_t sent_by_maximum(index_t bytes, int size) { return 2 * bytes * (size - 1) / size; }

index_t sent_by_broadcast(index_t bytes, int root, int rank, int size) {
  if (!broadcasts_by_shares(bytes, size)) return rank == root ? bytes * (size - 1) : 0;
  // The root deals out the shares, then each rank sends its own to all others.
  return over_pieces(bytes, broadcast_piece_bytes(size), [&](index_t length) {
    const index_t mine = share_of(length, rank, size).count();
    return (rank == root ? length - mine : 0) + mine * (size - 1);
  });
}

index_t sent_by_gather(std::span<const index_t> offsets, int rank, int size) {
  const auto share = [&](int r) { return offsets[at(r + 1)] - offsets[at(r)]; };
  if (size == 1) return 0;
  if (offsets[at(size)] <= piece_bytes) return share(rank) * (size - 1);
  index_t sent = 0;
  for (int r = 0; r < size; ++r) sent += sent_by_broadcast(share(r), r, rank, size);
  return sent;
}

}  // namespace quip
