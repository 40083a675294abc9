// What a block of threads shares while it searches, and the parts of the search that are not worth
// tuning: targets, the start of a walk from one node, and the way back along the best path. The
// words are those of quant/trellis/search.cpp, whose results these are bit for bit.
#pragma once

#include <type_traits>

#include "backend/cuda/reduce.hpp"
#include "trellis_kernels.hpp"
#include "trellis_math.hpp"

namespace quip::cuda {

using trellis::tile_steps;

inline constexpr int search_warps = search_threads / static_cast<int>(warp_size);

/// The trellis of a code: state s = h·nodes + g leads from node s >> bits = h·stems + (g >> bits)
/// to node g.
template <int Bits>
struct Trellis {
  static constexpr int symbols = 1 << Bits;
  static constexpr int node_bits = trellis::state_bits - Bits;
  static constexpr int nodes = 1 << node_bits;
  static constexpr int stems = nodes / symbols;
  static constexpr bool narrow = Bits <= narrow_search_bits;
  using Cost = std::conditional_t<narrow, std::uint16_t, std::uint32_t>;
  /// Steps of a walk from one node after which it can be at any, and the bits in which the paths
  /// to the same node differ by then.
  static constexpr int first_step = trellis::steps_to_any_node(Bits);
  static constexpr int spare_bits = first_step * Bits - node_bits;
  static constexpr int interval = kept_interval(Bits);

  /// Returns where the cost of a node stands: wide ones of the predecessors of a node side by side.
  __device__ static int place_of(int node) {
    return narrow ? node : node % stems * symbols + node / stems;
  }
};

template <int Bits, int Tiles>
struct SearchMemory {
  using Cost = typename Trellis<Bits>::Cost;
  struct Tile {
    alignas(16) Cost costs[2][Trellis<Bits>::nodes];
    std::uint64_t sums[256];
    std::uint64_t keys[search_warps];
    std::uint32_t least[2][search_warps];
    std::int32_t targets[tile_steps];
    std::uint16_t states[tile_steps];
    std::uint8_t winners[256];
    std::int32_t node;
  };
  Tile tiles[Tiles];
};

/// A walk: 256 steps, from `offset` of the ring on. Costs are kept after step `first_kept` and
/// after every multiple of the interval beyond it.
template <int Bits>
struct Walk {
  int offset;
  int first;       ///< 0, or the steps that the start of a walk from one node has taken
  int first_kept;  ///< where the way back ends

  /// Returns the number of the row of costs after a step.
  [[nodiscard]] __device__ int row_after(int step) const {
    return step == first_kept ? 0 : step / Trellis<Bits>::interval;
  }
  [[nodiscard]] __device__ bool keeps(int step) const {
    return step == first_kept || (step > first_kept && step % Trellis<Bits>::interval == 0);
  }
  /// Returns what turns the costs after a step into unsigned numbers.
  [[nodiscard]] __device__ std::uint32_t turn_after(int step) const {
    if (step == first) return 0;
    const bool odd = (step - 1 - first) % 2 == 1;
    return (odd ? StepKind<Bits, true>::turned : StepKind<Bits, false>::turned) ? 0x8000U : 0;
  }
  [[nodiscard]] __device__ int place_of(int step) const { return (offset + step) % tile_steps; }
};

/// Combines a value over the first `lanes` lanes of each `lanes` · `stride`, `stride` apart.
__device__ inline std::uint64_t least_of_lanes(std::uint64_t value, int lanes, int stride) {
  for (int distance = lanes * stride / 2; distance >= stride; distance /= 2) {
    const std::uint64_t other = __shfl_xor_sync(every_lane, value, distance);
    value = other < value ? other : value;
  }
  return value;
}

/// Reads a tile's targets as integers.
template <typename Tile>
__device__ void read_targets(const SearchTables& tables, DeviceView<const float> target,
                             index_t number, Tile& tile) {
  for (int step = static_cast<int>(threadIdx.x); step < tile_steps; step += search_threads) {
    const trellis::TilePlace place = trellis::place_of(step);
    const index_t lane = number * trellis::tile_side + place.output;
    const float x = lane < target.cols ? target(place.input, lane) : 0.0F;
    const auto bound = static_cast<float>(tables.limit);
    tile.targets[step] = __float2int_rn(fminf(fmaxf(__fmul_rn(x, tables.unit), -bound), bound));
  }
}

/// Returns state i < first_step of the path from node `start` to `node` with these spare bits.
template <int Bits>
__device__ int state_of_start(int start, int spare, int node, int i) {
  using T = Trellis<Bits>;
  const std::int64_t path =
      (static_cast<std::int64_t>(start) << (T::first_step * Bits)) | (spare << T::node_bits) | node;
  return static_cast<int>(path >> ((T::first_step - 1 - i) * Bits)) & (trellis::state_count - 1);
}

template <int Bits, typename Tile>
__device__ std::uint32_t cost_of_start(const SearchTables& tables, const Tile& tile, int start,
                                       int spare, int node) {
  std::uint32_t cost = 0;
  for (int i = 0; i < Trellis<Bits>::first_step; ++i) {
    const int value = tables.integers[state_of_start<Bits>(start, spare, node, i)];
    cost += trellis::distance_cost(Bits, tile.targets[i], value);
  }
  return cost;
}

/// Takes the first steps of a walk from node tile.node at once, which few paths do: to `costs`, and
/// to the row of the costs that are kept.
template <int Bits, typename Tile, typename Cost>
__device__ void start_walk(const SearchTables& tables, const Tile& tile, Cost* costs, Cost* kept) {
  using T = Trellis<Bits>;
  for (int node = static_cast<int>(threadIdx.x); node < T::nodes; node += search_threads) {
    std::uint32_t best = ~0U;
    for (int spare = 0; spare < 1 << T::spare_bits; ++spare) {
      const std::uint32_t cost = cost_of_start<Bits>(tables, tile, tile.node, spare, node);
      best = cost < best ? cost : best;
    }
    costs[T::place_of(node)] = static_cast<Cost>(best);
    kept[T::place_of(node)] = static_cast<Cost>(best);
  }
}

/// Leaves the least node of those of least cost in tile.node. The whole block has to come.
template <int Bits, typename Tile, typename Cost>
__device__ void find_best_node(const Cost* costs, std::uint32_t turn, Tile& tile) {
  std::uint64_t best = ~std::uint64_t{0};
  for (int node = static_cast<int>(threadIdx.x); node < Trellis<Bits>::nodes;
       node += search_threads) {
    const std::uint64_t cost = costs[Trellis<Bits>::place_of(node)] ^ turn;
    const std::uint64_t key = (cost << trellis::state_bits) | static_cast<unsigned>(node);
    best = key < best ? key : best;
  }
  best = least_of_lanes(best, warp_size, 1);
  if (threadIdx.x % warp_size == 0) tile.keys[threadIdx.x / warp_size] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (const std::uint64_t key : tile.keys) best = key < best ? key : best;
    tile.node = static_cast<int>(best & (trellis::state_count - 1));
  }
}

/// Takes one warp's way back over `depth` steps, from `node` after step `step` of the walk, with
/// the costs `kept` before them: writes their states and returns the node it comes to.
template <int Bits, typename Tile, typename Cost>
__device__ int retake(const SearchTables& tables, const Walk<Bits>& walk, const Cost* kept,
                      int step, int depth, int node, Tile& tile) {
  using T = Trellis<Bits>;
  const int lane = static_cast<int>(threadIdx.x % warp_size);
  const std::uint32_t turn = walk.turn_after(step - depth);
  for (int path = lane; path < 1 << (depth * Bits); path += static_cast<int>(warp_size)) {
    const int from = ((path << T::node_bits) | node) >> (depth * Bits);
    tile.sums[path] = kept[T::place_of(from)] ^ turn;
  }
  __syncwarp();
  for (int left = depth; left > 0; --left) {
    const int shift = (left - 1) * Bits;
    const int target = tile.targets[walk.place_of(step - left)];
    // Few paths are shared out among the lanes by their first symbols, too.
    const int rests = 1 << shift;
    const int apart = rests < static_cast<int>(warp_size) ? rests : static_cast<int>(warp_size);
    const int most_parts = static_cast<int>(warp_size) / apart;
    const int parts = most_parts < T::symbols ? most_parts : T::symbols;
    const int part = lane / apart;
    for (int rest = lane % apart; rest < rests; rest += apart) {
      const int state = (((rest << T::node_bits) | node) >> shift) & (T::nodes - 1);
      std::uint64_t best = ~std::uint64_t{0};
      for (int h = part; h < T::symbols && part < parts; h += parts) {
        const int value = tables.integers[h * T::nodes + state];
        const std::uint64_t sum =
            tile.sums[(h << shift) | rest] + trellis::distance_cost(Bits, target, value);
        const std::uint64_t key = (sum << Bits) | static_cast<unsigned>(h);
        best = key < best ? key : best;
      }
      best = least_of_lanes(best, parts, apart);
      if (part == 0) {
        tile.sums[rest] = best >> Bits;
        tile.winners[rests + rest] = static_cast<std::uint8_t>(best & (T::symbols - 1));
      }
    }
    __syncwarp();
  }
  int path = 0;
  for (int left = 1; left <= depth; ++left) {
    const int shift = (left - 1) * Bits;
    path |= tile.winners[(1 << shift) + path] << shift;
    const int state = (((path << T::node_bits) | node) >> shift) & (trellis::state_count - 1);
    if (lane == 0) tile.states[walk.place_of(step - left)] = static_cast<std::uint16_t>(state);
  }
  __syncwarp();
  return ((path << T::node_bits) | node) >> (depth * Bits);
}

/// Goes back from tile.node to the first step whose costs are kept: writes the states on the way
/// and leaves the node there. One warp.
template <int Bits, typename Tile, typename Cost>
__device__ void trace_back(const SearchTables& tables, const Walk<Bits>& walk, const Cost* kept,
                           Tile& tile) {
  using T = Trellis<Bits>;
  int node = tile.node;
  for (int step = tile_steps; step > walk.first_kept;) {
    const int before = (step - 1) / T::interval * T::interval;
    const int to = before > walk.first_kept ? before : walk.first_kept;
    node = retake(tables, walk, kept + index_t{walk.row_after(to)} * T::nodes, step, step - to,
                  node, tile);
    step = to;
  }
  if (walk.first > 0) {
    const int lane = static_cast<int>(threadIdx.x % warp_size);
    std::uint64_t best = ~std::uint64_t{0};
    if (lane < 1 << T::spare_bits) {
      const std::uint64_t cost = cost_of_start<Bits>(tables, tile, tile.node, lane, node);
      best = (cost << trellis::max_bits) | static_cast<unsigned>(lane);
    }
    best = least_of_lanes(best, warp_size, 1);
    const int spare = static_cast<int>(best & ((1U << trellis::max_bits) - 1));
    if (lane < T::first_step) {
      tile.states[lane] =
          static_cast<std::uint16_t>(state_of_start<Bits>(tile.node, spare, node, lane));
    }
    return;
  }
  if (threadIdx.x % warp_size == 0) tile.node = node;
}

}  // namespace quip::cuda
