// Steps of the search with costs of 32 bits, in integers.
#pragma once

#include "trellis_walk.hpp"

namespace quip::cuda {

/// A thread's share: a few nodes, or half the predecessors of one.
template <int Bits>
struct WideShare {
  static constexpr int nodes = Trellis<Bits>::nodes;
  static constexpr int items = nodes > search_threads ? nodes / search_threads : 1;
  static constexpr int parts = nodes < search_threads ? search_threads / nodes : 1;
  static constexpr int predecessors = Trellis<Bits>::symbols / parts;

  int node;
  int first_h;
  __host__ __device__ WideShare(int item, int thread)
      : node((item * search_threads + thread) / parts), first_h(thread % parts * predecessors) {}
};

template <int Bits>
__device__ std::uint32_t wide_step(const std::uint32_t* values, std::uint32_t target,
                                   std::uint32_t lowering, const std::uint32_t* in,
                                   std::uint32_t* out, std::uint32_t* kept) {
  using T = Trellis<Bits>;
  using Share = WideShare<Bits>;
  std::uint32_t least = ~0U;
  QUIP_UNROLL
  for (int item = 0; item < Share::items; ++item) {
    const Share share(item, static_cast<int>(threadIdx.x));
    const auto* const costs =
        reinterpret_cast<const uint4*>(in + (share.node >> Bits) * T::symbols + share.first_h);
    std::uint32_t best = ~0U;
    // Distances are lowered, so that no sum exceeds 32 bits.
    const auto take = [&](std::uint32_t cost, std::uint32_t value) {
      const std::uint32_t e = target - value;
      const std::uint32_t sum = cost + (e * e + lowering);
      best = sum < best ? sum : best;
    };
    QUIP_UNROLL
    for (int h = 0; h < Share::predecessors; h += 4) {
      const uint4 four = costs[h / 4];
      const std::uint32_t* const pairs = values + (item * Share::predecessors + h) / 2;
      take(four.x, pairs[0] & 0xffffU);
      take(four.y, pairs[0] >> 16);
      take(four.z, pairs[1] & 0xffffU);
      take(four.w, pairs[1] >> 16);
    }
    QUIP_UNROLL
    for (int part = 1; part < Share::parts; part *= 2) {
      const std::uint32_t other = __shfl_xor_sync(every_lane, best, part);
      best = other < best ? other : best;
    }
    const int place = T::place_of(share.node);
    out[place] = best;
    if (kept != nullptr) kept[place] = best;
    least = best < least ? best : least;
  }
  return least;
}

template <int Bits>
__device__ void take_wide_steps(const std::uint32_t* values, const Walk<Bits>& walk,
                                SearchMemory<Bits, 1>& memory, std::uint32_t* scratch) {
  auto& tile = memory.tiles[0];
  const unsigned lane = threadIdx.x % warp_size;
  for (int step = walk.first; step < tile_steps; ++step) {
    const int parity = step % 2;
    std::uint32_t lowering = 0;
    if (step > walk.first) {
      const std::uint32_t mine = lane < search_warps ? tile.least[parity][lane] : ~0U;
      lowering = 0U - __reduce_min_sync(every_lane, mine);
    }
    std::uint32_t* const kept =
        walk.keeps(step + 1) ? scratch + index_t{walk.row_after(step + 1)} * Trellis<Bits>::nodes
                             : nullptr;
    const auto target = static_cast<std::uint32_t>(tile.targets[walk.place_of(step)] + packed_bias);
    const std::uint32_t least =
        wide_step<Bits>(values, target, lowering, tile.costs[parity], tile.costs[parity ^ 1], kept);
    const std::uint32_t found = __reduce_min_sync(every_lane, least);
    if (lane == 0) tile.least[parity ^ 1][threadIdx.x / warp_size] = found;
    __syncthreads();
  }
}

}  // namespace quip::cuda
