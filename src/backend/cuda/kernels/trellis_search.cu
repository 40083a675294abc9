// The search for the states of tiles, a few at a time by a block of threads. A thread takes the
// same states through all steps and keeps their values in registers; costs of nodes go round in
// shared memory. Steps are all that takes time.
#include "trellis_narrow.hpp"
#include "trellis_wide.hpp"

namespace quip::cuda {
namespace {

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
