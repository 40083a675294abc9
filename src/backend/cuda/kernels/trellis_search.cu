// The search for the states of tiles, a few at a time by a block of threads. A thread takes the
// same states through all steps and keeps their values in registers; costs of nodes go round in
// shared memory. A step is all that takes time: for two states of each tile it is two differences,
// two squares, their packing and a fused addition and minimum, and for all tiles together the
// unpacking of two values.
#include "trellis_walk.hpp"

namespace quip::cuda {
namespace {

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

// ---- costs of 16 bits ----

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

// ---- costs of 32 bits ----

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

// ---- the search ----

/// Takes all steps of a walk, and leaves the costs after it in `costs[0]` of each tile.
template <int Bits, int Tiles>
__device__ void take_steps(const std::uint32_t* values, const Walk<Bits>& walk,
                           SearchMemory<Bits, Tiles>& memory,
                           typename Trellis<Bits>::Cost* scratch) {
  if constexpr (Trellis<Bits>::narrow) {
    take_narrow_steps<Bits, Tiles>(values, walk, memory, scratch);
  } else {
    take_wide_steps<Bits>(values, walk, memory, scratch);
  }
}

/// Takes a block's tiles, those from number `first` on, from targets to states. `scratch` is the
/// block's. The seam is found by a walk that starts and ends, at any node, on the other side of the
/// ring; the other walk starts and ends there.
template <int Bits, int Tiles>
__device__ void search(const std::uint32_t* values, const SearchTables& tables,
                       DeviceView<const float> target, index_t first,
                       SearchMemory<Bits, Tiles>& memory, typename Trellis<Bits>::Cost* scratch) {
  using T = Trellis<Bits>;
  constexpr index_t kept = index_t{tile_steps / T::interval + 1} * T::nodes;
  const int warp = static_cast<int>(threadIdx.x / warp_size);
  for (int t = 0; t < Tiles; ++t) {
    auto& tile = memory.tiles[t];
    read_targets(tables, target, first + t, tile);
    for (int i = static_cast<int>(threadIdx.x); i < T::nodes; i += search_threads) {
      tile.costs[0][i] = 0;
    }
  }
  __syncthreads();
  QUIP_NO_UNROLL
  for (int round = 0; round < 2; ++round) {
    const bool open = round == 0;
    const Walk<Bits> walk{open ? tile_steps / 2 : 0, open ? 0 : T::first_step,
                          open ? tile_steps / 2 : T::first_step};
    for (int t = 0; t < Tiles && !open; ++t) {
      auto& tile = memory.tiles[t];
      start_walk<Bits>(tables, tile, tile.costs[T::first_step % 2], scratch + t * kept);
    }
    __syncthreads();
    take_steps<Bits, Tiles>(values, walk, memory, scratch);
    for (int t = 0; t < Tiles && open; ++t) {
      auto& tile = memory.tiles[t];
      find_best_node<Bits>(tile.costs[0], walk.turn_after(tile_steps), tile);
    }
    __syncthreads();
    if (warp < Tiles) trace_back(tables, walk, scratch + warp * kept, memory.tiles[warp]);
    __syncthreads();
  }
}

struct ColumnViews {
  DeviceView<const float> x;
  DeviceView<const float> target;
  DeviceView<float> q;
  DeviceView<float> error;
  std::uint16_t* states;
};

/// Writes states, values and errors of a tile.
template <typename Tile>
__device__ void write_tile(const SearchTables& tables, const ColumnViews& columns, index_t number,
                           const Tile& tile) {
  for (int step = static_cast<int>(threadIdx.x); step < tile_steps; step += search_threads) {
    const trellis::TilePlace place = trellis::place_of(step);
    const index_t lane = number * trellis::tile_side + place.output;
    if (lane >= columns.x.cols) continue;
    const std::uint16_t state = tile.states[step];
    const float value = tables.values[state];
    columns.states[number * tile_steps + step] = state;
    columns.q(place.input, lane) = value;
    columns.error(place.input, lane) = __fsub_rn(columns.x(place.input, lane), value);
  }
}

template <int Bits, int Tiles>
__global__ void __launch_bounds__(search_threads, 1)
    search_all(SearchTables tables, ColumnViews columns, std::byte* scratch) {
  auto& memory = *shared_memory<SearchMemory<Bits, Tiles>>();
  std::uint32_t values[search_pairs];
  QUIP_UNROLL
  for (int i = 0; i < search_pairs; ++i) {
    values[i] = tables.pairs[i * search_threads + static_cast<int>(threadIdx.x)];
  }
  auto* const costs = reinterpret_cast<typename Trellis<Bits>::Cost*>(
      scratch + static_cast<index_t>(blockIdx.x) * search_scratch_bytes(Bits));
  const index_t tiles = columns.x.cols / trellis::tile_side;
  for (index_t first = static_cast<index_t>(blockIdx.x) * Tiles; first < tiles;
       first += static_cast<index_t>(gridDim.x) * Tiles) {
    search<Bits, Tiles>(values, tables, columns.target, first, memory, costs);
    for (int t = 0; t < Tiles; ++t) write_tile(tables, columns, first + t, memory.tiles[t]);
    __syncthreads();
  }
}

template <int Bits, int Tiles>
void run(cudaStream_t stream, const SearchTables& tables, const TileColumns& columns,
         std::byte* scratch, index_t blocks) {
  const ColumnViews views{columns.x, columns.target, columns.q, columns.error, columns.states};
  const index_t wanted = (columns.x.cols / trellis::tile_side + Tiles - 1) / Tiles;
  launch("search_tiles", search_all<Bits, Tiles>,
         static_cast<unsigned>(wanted < blocks ? wanted : blocks), search_threads,
         sizeof(SearchMemory<Bits, Tiles>), stream, tables, views, scratch);
}

/// Takes as many tiles a block as leaves no processor idle.
template <int Bits>
void run(cudaStream_t stream, const SearchTables& tables, const TileColumns& columns,
         std::byte* scratch, index_t blocks) {
  constexpr int most = most_search_tiles(Bits);
  const bool few = columns.x.cols / trellis::tile_side <= blocks;
  const auto kernel = few ? run<Bits, 1> : run<Bits, most>;
  kernel(stream, tables, columns, scratch, blocks);
}

/// Calls visit(first, second) for the pairs of states of a thread, in their order.
template <int Bits, typename Visit>
void visit_pairs(int thread, const Visit& visit) {
  constexpr int nodes = Trellis<Bits>::nodes;
  if constexpr (Trellis<Bits>::narrow) {
    using Share = NarrowShare<Bits>;
    for (int item = 0; item < Share::items; ++item) {
      const Share share(item, thread);
      for (int h = 0; h < Share::symbols; ++h) {
        for (int r = 0; r < Share::together; ++r) {
          visit(h * nodes + share.node(0, r), h * nodes + share.node(1, r));
        }
      }
    }
  } else {
    using Share = WideShare<Bits>;
    for (int item = 0; item < Share::items; ++item) {
      const Share share(item, thread);
      for (int h = share.first_h; h < share.first_h + Share::predecessors; h += 2) {
        visit(h * nodes + share.node, (h + 1) * nodes + share.node);
      }
    }
  }
}

template <int Bits>
std::vector<std::uint32_t> table_of(std::span<const std::int16_t> integers) {
  std::vector<std::uint32_t> table(at(search_pairs * search_threads));
  const auto packed = [&](int state) {
    return static_cast<std::uint32_t>(integers[at(state)] + packed_bias);
  };
  for (int thread = 0; thread < search_threads; ++thread) {
    std::uint32_t* to = table.data() + thread;
    visit_pairs<Bits>(thread, [&](int first, int second) {
      *to = packed(first) | packed(second) << 16;
      to += search_threads;
    });
  }
  return table;
}

/// Calls op with `bits` as a constant.
template <typename Op>
auto with_bits(int bits, const Op& op) {
  switch (bits) {
    case 1:
      return op(std::integral_constant<int, 1>());
    case 2:
      return op(std::integral_constant<int, 2>());
    case 3:
      return op(std::integral_constant<int, 3>());
    case 4:
      return op(std::integral_constant<int, 4>());
    case 5:
      return op(std::integral_constant<int, 5>());
    case 6:
      return op(std::integral_constant<int, 6>());
    case 7:
      return op(std::integral_constant<int, 7>());
    default:
      return op(std::integral_constant<int, 8>());
  }
}

}  // namespace

std::vector<std::uint32_t> search_table(int bits, std::span<const std::int16_t> integers) {
  return with_bits(bits, [&](auto constant) { return table_of<constant()>(integers); });
}

void search_tiles(cudaStream_t stream, int bits, const SearchTables& tables,
                  const TileColumns& columns, std::byte* scratch, index_t blocks) {
  if (columns.x.cols == 0) return;
  with_bits(bits,
            [&](auto constant) { run<constant()>(stream, tables, columns, scratch, blocks); });
}

}  // namespace quip::cuda
