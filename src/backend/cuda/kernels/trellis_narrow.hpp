// Steps of the search with costs of 16 bits, two to a word: for two states of each tile two
// differences, two squares, their packing and a fused addition and minimum, and for all tiles
// together the unpacking of two values.
#pragma once

#include "trellis_walk.hpp"

namespace quip::cuda {

/// Stores a run of words at a place that is a multiple of its size.
template <int Count>
__device__ void store_run(std::uint32_t* to, const std::uint32_t* words) {
  if constexpr (Count == 1) {
    *to = *words;
  } else if constexpr (Count == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  } else {
    QUIP_UNROLL
    for (int i = 0; i < Count; i += 4) {
      *reinterpret_cast<uint4*>(to + i) =
          make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]);
    }
  }
}

/// A thread's share: in every item the states of two neighbouring stems with all predecessors and
/// some of their last symbols.
template <int Bits>
struct NarrowShare {
  static constexpr int symbols = Trellis<Bits>::symbols;
  static constexpr int together = symbols <= 8 ? symbols : 4;
  static constexpr int items = search_pairs / (symbols * together);
  static constexpr int groups = symbols / together;

  int group;
  int pair;  ///< of stems
  __host__ __device__ NarrowShare(int item, int thread)
      : group((item * search_threads + thread) % groups),
        pair((item * search_threads + thread) / groups) {}

  [[nodiscard]] __host__ __device__ int node(int stem, int symbol) const {
    return (2 * pair + stem) * symbols + group * together + symbol;
  }
};

template <int Bits, int Tiles, bool Odd>
__device__ void narrow_step(const std::uint32_t* values, const StepTarget<Bits>* targets,
                            const std::uint32_t* lowering, const std::uint32_t* const* in,
                            std::uint32_t* const* out, std::uint32_t* const* kept,
                            std::uint32_t* least) {
  using Share = NarrowShare<Bits>;
  using Kind = StepKind<Bits, Odd>;
  constexpr int together = Share::together;
  constexpr int pairs_of_stems = Trellis<Bits>::stems / 2;
  QUIP_UNROLL
  for (int item = 0; item < Share::items; ++item) {
    const Share share(item, static_cast<int>(threadIdx.x));
    std::uint32_t best[Tiles][together];
    QUIP_UNROLL
    for (int h = 0; h < Share::symbols; ++h) {
      std::uint32_t cost[Tiles];
      QUIP_UNROLL
      for (int t = 0; t < Tiles; ++t) {
        cost[t] = Kind::lowered(in[t][h * pairs_of_stems + share.pair], lowering[t]);
      }
      QUIP_UNROLL
      for (int r = 0; r < together; ++r) {
        const std::uint32_t pair = values[(item * Share::symbols + h) * together + r];
        const float low = low_value(pair);
        const float high = high_value(pair);
        QUIP_UNROLL
        for (int t = 0; t < Tiles; ++t) {
          const std::uint32_t distances =
              packed_distances(targets[t].distance_bits(low), targets[t].distance_bits(high));
          best[t][r] = Kind::add_min(distances, cost[t], h == 0 ? Kind::most : best[t][r]);
        }
      }
    }
    QUIP_UNROLL
    for (int t = 0; t < Tiles; ++t) {
      std::uint32_t words[together];
      QUIP_UNROLL
      for (int r = 0; r < together; r += 2) {
        words[r / 2] = __byte_perm(best[t][r], best[t][r + 1], both_low);
        words[(together + r) / 2] = __byte_perm(best[t][r], best[t][r + 1], both_high);
      }
      if constexpr (Kind::finds_least) {
        QUIP_UNROLL
        for (int r = 0; r < together; ++r) least[t] = Kind::add_min(best[t][r], 0, least[t]);
      }
      const int first = share.node(0, 0) / 2;
      const auto store = [&](std::uint32_t* to) {
        if constexpr (Share::groups == 1) {
          store_run<together>(to + first, words);
        } else {
          store_run<together / 2>(to + first, words);
          store_run<together / 2>(to + share.node(1, 0) / 2, words + together / 2);
        }
      };
      store(out[t]);
      if (kept[t] != nullptr) store(kept[t]);
    }
  }
}

/// Returns the negative of the least cost that all warps have found, twice.
template <int Bits, typename Tile>
__device__ std::uint32_t lowering_by(const Tile& tile, int parity) {
  const unsigned lane = threadIdx.x % warp_size;
  const std::uint32_t mine = lane < search_warps ? tile.least[parity][lane] : ~0U;
  const std::uint32_t least = __reduce_min_sync(every_lane, mine);
  // Three bits: costs before the step have their upper bits turned, and so has what they lose.
  const std::uint32_t turned =
      trellis::alternates(Bits) || Bits == narrow_search_bits ? 0 : 0x8000U;
  return twice((0U - (least ^ turned)) & 0xffffU);
}

/// Takes step `step` of a walk for all tiles.
template <int Bits, int Tiles, bool Odd>
__device__ void take_narrow_step(const std::uint32_t* values, const Walk<Bits>& walk, int step,
                                 SearchMemory<Bits, Tiles>& memory,
                                 typename Trellis<Bits>::Cost* scratch) {
  using T = Trellis<Bits>;
  using Kind = StepKind<Bits, Odd>;
  const int parity = step % 2;
  const std::uint32_t* in[Tiles];
  std::uint32_t* out[Tiles];
  std::uint32_t* kept[Tiles];
  std::uint32_t lowering[Tiles];
  std::uint32_t least[Tiles];
  StepTarget<Bits> targets[Tiles];
  QUIP_UNROLL
  for (int t = 0; t < Tiles; ++t) {
    auto& tile = memory.tiles[t];
    in[t] = reinterpret_cast<const std::uint32_t*>(tile.costs[parity]);
    out[t] = reinterpret_cast<std::uint32_t*>(tile.costs[parity ^ 1]);
    const index_t row = index_t{t} * (tile_steps / T::interval + 1) + walk.row_after(step + 1);
    kept[t] =
        walk.keeps(step + 1) ? reinterpret_cast<std::uint32_t*>(scratch + row * T::nodes) : nullptr;
    targets[t] = StepTarget<Bits>(tile.targets[walk.place_of(step)]);
    lowering[t] = 0;
    if constexpr (Kind::subtracts) {
      if (step > walk.first) lowering[t] = lowering_by<Bits>(tile, parity);
    }
    least[t] = Kind::most;
  }
  narrow_step<Bits, Tiles, Odd>(values, targets, lowering, in, out, kept, least);
  if constexpr (Kind::finds_least) {
    QUIP_UNROLL
    for (int t = 0; t < Tiles; ++t) {
      const std::uint32_t costs = Kind::turned ? least[t] ^ 0x80008000U : least[t];
      const std::uint32_t low = costs & 0xffffU;
      const std::uint32_t high = costs >> 16;
      const std::uint32_t found = __reduce_min_sync(every_lane, low < high ? low : high);
      if (threadIdx.x % warp_size == 0) {
        memory.tiles[t].least[parity ^ 1][threadIdx.x / warp_size] = found;
      }
    }
  }
  __syncthreads();
}

template <int Bits, int Tiles>
__device__ void take_narrow_steps(const std::uint32_t* values, const Walk<Bits>& walk,
                                  SearchMemory<Bits, Tiles>& memory, std::uint16_t* scratch) {
  for (int step = walk.first; step < tile_steps; ++step) {
    take_narrow_step<Bits, Tiles, false>(values, walk, step, memory, scratch);
    if constexpr (StepKind<Bits, false>::alternates) {
      if (++step == tile_steps) return;
      take_narrow_step<Bits, Tiles, true>(values, walk, step, memory, scratch);
    }
  }
}

}  // namespace quip::cuda
