#include "quip/quant/trellis/search.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "quant/trellis/kernels.hpp"
#include "quant/trellis/layout.hpp"
#include "quant/trellis/scaling.hpp"

#include "quip/core/error.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {
namespace {

/// Returns how many steps lie between two steps whose costs are kept: 2 to 3 MB a tile in all. To
/// retake more steps takes longer, and to keep more costs has the caches wait.
constexpr int steps_between_kept(int bits) {
  constexpr int steps[] = {0, 6, 3, 2};
  return bits < max_narrow_bits ? steps[bits] : 1;
}

template <typename Cost>
const StepFunctions<Cost>& steps_of(const Kernels& kernels, int bits) {
  if constexpr (sizeof(Cost) == 2) {
    return kernels.narrow[bits];
  } else {
    return kernels.wide[bits];
  }
}

/// A walk along some steps, all states or those of one node at its start, which keeps the costs of
/// nodes after every few steps. No winners are kept: to trace the best path back is to take the few
/// steps again that lead to its nodes.
template <typename Cost>
class Walk {
 public:
  Walk(int bits, int interval)
      : zeros_(state_count >> bits, Cost{0}),
        between_(index_t{3} * (state_count >> bits)),
        kept_((tile_steps / interval + 2) * index_t{state_count >> bits}) {}

  std::int16_t targets[tile_steps] = {};   ///< in the order of the walk
  int count = 0;                           ///< of its steps
  int start = free_start;                  ///< the node at its start
  int first_kept = 0;                      ///< no costs before this step are kept
  const Cost* costs[tile_steps + 1] = {};  ///< after every step; valid later for those kept

  [[nodiscard]] const Cost* zeros() const { return zeros_.data(); }
  /// Room for the costs after a step that are needed for the next one only. Neither the step before
  /// nor the one before that, where two are taken at once, has the same.
  [[nodiscard]] Cost* passing(int step) const {
    return between_.data() + (step % 3) * zeros_.size();
  }
  [[nodiscard]] Cost* kept(int slot) const { return kept_.data() + slot * zeros_.size(); }

 private:
  Buffer<Cost> zeros_;
  Buffer<Cost> between_;
  Buffer<Cost> kept_;
};

template <typename Cost>
class Search final : public TileSearch {
 public:
  Search(Codebook codebook, int bits, SeamSearch seam, const Kernels& kernels)
      : bits_(bits),
        seam_(seam),
        layout_{bits, &kernels},
        scaling_(scaling(codebook, bits)),
        table_(table_of<Cost>(layout_, scaling_)),
        leading_(index_t{state_count}) {
    for (int s = 0; s < state_count; ++s) {
      leading_[(s % nodes() << bits_) + s / nodes()] = scaling_.values[at(s)];
    }
  }

  [[nodiscard]] std::unique_ptr<Workspace> workspace() const override {
    return std::make_unique<Memory>(bits_);
  }

  void encode(const float* targets, index_t count, Workspace& workspace,
              std::uint16_t* states) const override {
    auto& walk = static_cast<Memory&>(workspace).walk;
    for (index_t tile = 0; tile < count; ++tile) {
      std::int16_t integers[tile_steps];
      to_integers(targets + tile * tile_steps, integers);
      const int node = seam_of(integers, walk);
      std::copy_n(integers, tile_steps, walk.targets);
      walk.count = tile_steps;
      walk.start = node;
      walk.first_kept = 0;
      forward(walk);
      trace_back(walk, node, 0, states + tile * tile_steps);
    }
  }

  [[nodiscard]] int seam_node(const float* targets, Workspace& workspace) const override {
    std::int16_t integers[tile_steps];
    to_integers(targets, integers);
    return seam_of(integers, static_cast<Memory&>(workspace).walk);
  }

 private:
  struct Memory final : Workspace {
    explicit Memory(int bits) : walk(bits, steps_between_kept(bits)) {}
    Walk<Cost> walk;
  };

  // Sums of a few steps on top of costs that have not been lowered yet.
  using Sum = std::conditional_t<sizeof(Cost) == 2, std::uint32_t, std::uint64_t>;

  [[nodiscard]] int nodes() const { return layout_.nodes(); }
  [[nodiscard]] int symbols() const { return layout_.symbols(); }
  [[nodiscard]] int interval() const { return steps_between_kept(bits_); }
  /// Returns the steps of a walk from one node for which there is but one path to each node.
  [[nodiscard]] int forced_steps() const { return (state_bits - bits_) / bits_; }

  void to_integers(const float* targets, std::int16_t* integers) const {
    for (int i = 0; i < tile_steps; ++i) integers[i] = scaling_.target(targets[i]);
  }

  /// Returns the node between the last and the first step on the best path of a search that starts
  /// and ends, at any node, on the other side of the ring.
  int seam_of(const std::int16_t* targets, Walk<Cost>& walk) const {
    walk.count = seam_ == SeamSearch::whole_round ? tile_steps : tile_steps / 2;
    walk.start = free_start;
    walk.first_kept = walk.count / 2;
    const int before = tile_steps - walk.count / 2;
    for (int i = 0; i < walk.count; ++i) walk.targets[i] = targets[(before + i) % tile_steps];
    forward(walk);
    std::uint16_t unused[tile_steps];
    return trace_back(walk, layout_.best_node(walk.costs[walk.count]), walk.first_kept, unused);
  }

  /// Takes all steps of a walk.
  void forward(Walk<Cost>& walk) const {
    const StepFunctions<Cost>& functions = steps_of<Cost>(*layout_.kernels, bits_);
    const int partial_steps = walk.start == free_start ? 0 : steps_to_any_node(bits_);
    walk.costs[0] = walk.zeros();
    int slot = 0;
    Cost subtract = 0;
    const auto step_at = [&](int i) {
      Cost* const out = is_kept(walk, i + 1) ? walk.kept(slot++) : walk.passing(i + 1);
      walk.costs[i + 1] = out;
      return Step<Cost>{.table = table_.data(),
                        .in = walk.costs[i],
                        .out = out,
                        .target = walk.targets[i],
                        .subtract = subtract};
    };
    for (int i = 0; i < partial_steps; ++i) {
      Step<Cost> step = step_at(i);
      layout_.take_reached(step, walk.start, i);
      functions.part(step);
    }
    for (int i = partial_steps; i < walk.count; ++i) {
      Step<Cost> step = step_at(i);
      if ((i - partial_steps) % 2 == 0) {
        subtract = functions.even(step);
      } else if (functions.two == nullptr || i + 1 == walk.count) {
        subtract = functions.odd(step);
      } else {
        ++i;
        if (!is_kept(walk, i)) step.out = nullptr;
        subtract = functions.two(step, step_at(i));
      }
    }
  }

  /// True if the tracing back of a walk needs the costs after this step.
  [[nodiscard]] bool is_kept(const Walk<Cost>& walk, int step) const {
    const int first = walk.start == free_start ? walk.first_kept : forced_steps();
    return step == first || (step > first && (walk.count - step) % interval() == 0);
  }

  /// Writes the states on the best path to `node`, from the last step of a walk back to `until`,
  /// and returns the node at which it is there.
  int trace_back(const Walk<Cost>& walk, int node, int until, std::uint16_t* states) const {
    const bool fixed = walk.start != free_start;
    const int first = fixed ? forced_steps() : until;
    for (int step = walk.count; step > first;) {
      const int depth = std::min(interval(), step - first);
      node = retake(walk, node, step, depth, states);
      step -= depth;
    }
    if (!fixed) return node;
    // The symbols so far are still in the node.
    const std::int64_t path =
        (std::int64_t{walk.start} << (first * bits_)) | (node & ((1 << (first * bits_)) - 1));
    for (int i = 0; i < first; ++i) {
      states[i] = static_cast<std::uint16_t>(path >> ((first - 1 - i) * bits_));
    }
    return walk.start;
  }

  /// Finds the best path of `depth` steps to `node`, which it reaches after `step` steps: writes
  /// its states and returns the node from which it comes. Each path is a number: the bits of the
  /// states on it that `node` no longer holds, those of the first step on top.
  int retake(const Walk<Cost>& walk, int node, int step, int depth, std::uint16_t* states) const {
    constexpr int most = 256;  // intervals are such that no more paths lead to a node
    Sum sums[most];
    std::uint8_t winners[2 * most];
    const Cost* const costs = walk.costs[step - depth];
    const bool partly = walk.start != free_start && step - depth == forced_steps();
    const int width = state_bits - bits_;
    const int paths = 1 << (depth * bits_);
    // The bits that paths differ in are above those in which positions differ from nodes.
    const Cost* const from = costs + layout_.position_of(node >> (depth * bits_));
    for (int path = 0; path < paths; ++path) sums[path] = from[path << (width - depth * bits_)];
    if (partly) rule_out_unreached(walk, node, depth, sums);
    for (int left = depth; left > 0; --left) {
      const int shift = (left - 1) * bits_;
      const int target = walk.targets[step - left];
      for (int rest = 0; rest < 1 << shift; ++rest) {
        Sum best = std::numeric_limits<Sum>::max();
        int winner = 0;
        const std::int16_t* const values =
            leading_.data() + ((((rest << width) | node) >> shift) % nodes() << bits_);
        for (int h = 0; h < symbols(); ++h) {
          const Sum sum = sums[(h << shift) | rest] + distance_cost(bits_, target, values[h]);
          if (sum < best) {
            best = sum;
            winner = h;
          }
        }
        sums[rest] = best;
        winners[(1 << shift) + rest] = static_cast<std::uint8_t>(winner);
      }
    }
    int path = 0;
    for (int left = 1; left <= depth; ++left) {
      const int shift = (left - 1) * bits_;
      path |= winners[(1 << shift) + path] << shift;
      states[step - left] =
          static_cast<std::uint16_t>((((path << width) | node) >> shift) & (state_count - 1));
    }
    return ((path << width) | node) >> (depth * bits_);
  }

  /// Takes the paths out that start at a node to which there is none from the start of the walk.
  void rule_out_unreached(const Walk<Cost>& walk, int node, int depth, Sum* sums) const {
    const int reached = 1 << (forced_steps() * bits_);
    const int block = static_cast<int>(std::int64_t{walk.start} * reached % nodes()) / reached;
    for (int path = 0; path < 1 << (depth * bits_); ++path) {
      const int from = ((path << (state_bits - bits_)) | node) >> (depth * bits_);
      if (from / reached != block) sums[path] = std::numeric_limits<Sum>::max() / 2;
    }
  }

  int bits_;
  SeamSearch seam_;
  Layout layout_;
  Scaling scaling_;
  Buffer<TableValue<Cost>> table_;
  Buffer<std::int16_t> leading_;  ///< the values of the states that lead to node g from g·2^bits on
};

}  // namespace

const Kernels& best_kernels() {
  if (const Kernels* kernels = avx512_kernels()) return *kernels;
  if (const Kernels* kernels = avx2_kernels()) return *kernels;
  return generic_kernels();
}

std::unique_ptr<TileSearch> make_tile_search(Codebook codebook, int bits, SeamSearch seam,
                                             const Kernels& kernels) {
  if (bits < 1 || bits > max_bits) fail("a trellis code has 1 to {} bits, not {}", max_bits, bits);
  if (bits <= max_narrow_bits) {
    return std::make_unique<Search<std::uint16_t>>(codebook, bits, seam, kernels);
  }
  return std::make_unique<Search<std::uint32_t>>(codebook, bits, seam, kernels);
}

std::unique_ptr<TileSearch> make_tile_search(Codebook codebook, int bits, SeamSearch seam) {
  return make_tile_search(codebook, bits, seam, best_kernels());
}

void decode_states(Codebook codebook, const std::uint16_t* states, index_t count, float* values) {
  const auto table = codebook_values(codebook);
  for (index_t i = 0; i < count; ++i) values[i] = table[states[i]];
}

}  // namespace quip::trellis
