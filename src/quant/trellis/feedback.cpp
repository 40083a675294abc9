#include "quip/quant/trellis/feedback.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "quant/trellis/kernels.hpp"
#include "quant/trellis/layout.hpp"
#include "quant/trellis/scaling.hpp"

#include "quip/core/error.hpp"

namespace quip::trellis {
namespace {

static_assert(max_feedback_bits == max_narrow_bits);

constexpr int quads = tile_side / quad_steps;  ///< of one output

/// Returns the input that is visited as the i-th.
constexpr int input_at(int i) { return place_of(i / 4 * 8 + i % 4).input; }

/// A smaller weight would leave nothing of costs as integers, and errors would be anything.
constexpr double least_weight = 1.0 / 16;

/// Returns an integer of which 2¹⁵ is 1.
std::int16_t fraction(double x) {
  return static_cast<std::int16_t>(std::lrint(std::clamp(std::ldexp(x, 15), -32767.0, 32767.0)));
}

/// The factors of a block of inputs as integers.
struct Factors {
  std::int16_t weight[tile_side] = {};
  std::int16_t unit[tile_side] = {};
  std::int16_t factor[tile_side][tile_side] = {};  ///< [j][i], for i after j

  Factors(const TileFeedback& feedback, int bits) {
    for (int i = 0; i < tile_side; ++i) {
      weight[i] = fraction(std::max(feedback.weight(i), least_weight));
      // A sum of errors that know nothing of each other has as many times their root mean square.
      double norm = 0;
      for (int j = 0; j < i; ++j) norm = std::hypot(norm, feedback.factor(j, i));
      const double largest = std::ldexp(1.0, error_shift(bits));
      norm = std::clamp(norm, 1e-6, largest);
      unit[i] = fraction(norm / largest);
      for (int j = 0; j < i; ++j) factor[j][i] = fraction(feedback.factor(j, i) / norm);
    }
  }
};

/// Two planes of slots.
class Slots {
 public:
  explicit Slots(index_t nodes) : nodes_(nodes), data_(slot_planes * nodes, std::int16_t{0}) {}

  operator SlotPlanes() { return {data_.data(), data_.data() + nodes_}; }
  operator ConstSlotPlanes() const { return {data_.data(), data_.data() + nodes_}; }

 private:
  index_t nodes_;
  Buffer<std::int16_t> data_;
};

/// The buffers of a walk round the ring.
struct Memory final : FeedbackSearch::Workspace {
  Memory(index_t nodes, std::unique_ptr<TileSearch::Workspace> plain)
      : seam(std::move(plain)),
        costs{Buffer<std::uint16_t>(nodes), Buffer<std::uint16_t>(nodes)},
        passing_origins{Buffer<std::uint16_t>(nodes), Buffer<std::uint16_t>(nodes)},
        origins(tile_steps / quad_steps * nodes + 1),
        before{Buffer<std::uint16_t>(nodes), Buffer<std::uint16_t>(nodes)},
        words(nodes),
        zeros(nodes),
        picked(nodes),
        passing{Slots(nodes), Slots(nodes)},
        errors{Slots(nodes), Slots(nodes)} {
    for (int i = 0; i < 2 * 2 * quads; ++i) sums.emplace_back(nodes);
  }

  std::unique_ptr<TileSearch::Workspace> seam;
  Buffer<std::uint16_t> costs[2];
  Buffer<std::uint16_t> passing_origins[2];
  Buffer<std::uint16_t> origins;    ///< [quad × node]: after the last step of every quad; one more
  Buffer<std::uint16_t> before[2];  ///< the nodes before a quad, and before the one before it
  Buffer<std::uint32_t> words;
  Slots zeros;
  Slots picked;  ///< at the start of a quad, or errors at its end
  Slots passing[2];
  Slots errors[2];                          ///< of the last quads of two outputs, at their ends
  std::vector<Buffer<std::uint32_t>> sums;  ///< [old, new × output × quad]
};

class Search final : public FeedbackSearch {
 public:
  Search(Codebook codebook, int bits, SeamSearch seam, const Kernels& kernels)
      : bits_(bits),
        layout_{bits, &kernels},
        scaling_(scaling(codebook, bits)),
        table_(table_of<std::uint16_t>(layout_, scaling_)),
        plain_(make_tile_search(codebook, bits, seam, kernels)),
        starts_(layout_.nodes()),
        node_at_(at(layout_.nodes())) {
    for (int node = 0; node < layout_.nodes(); ++node) {
      const int position = layout_.position_of(node);
      node_at_[at(position)] = node;
      starts_[node] = static_cast<std::uint16_t>(node << bits);
    }
  }

  [[nodiscard]] std::unique_ptr<Workspace> workspace() const override {
    return std::make_unique<Memory>(layout_.nodes(), plain_->workspace());
  }

  void encode(const float* targets, index_t count, const TileFeedback& feedback,
              Workspace& workspace, std::uint16_t* states) const override {
    auto& memory = static_cast<Memory&>(workspace);
    const Factors factors(feedback, bits_);
    for (index_t tile = 0; tile < count; ++tile) {
      const float* const aims = targets + tile * tile_steps;
      const int node = plain_->seam_node(aims, *memory.seam);
      forward(aims, factors, node, memory);
      trace_back(memory, node, states + tile * tile_steps);
    }
  }

 private:
  /// Walks round the ring from `start`; leaves the origins of all quads.
  void forward(const float* targets, const Factors& factors, int start, Memory& memory) const {
    const index_t nodes = layout_.nodes();
    std::fill_n(memory.costs[0].data(), nodes, std::uint16_t{0xffff});
    memory.costs[0][layout_.position_of(start)] = 0;
    std::uint16_t subtract = 0;
    for (int pair = 0; pair < tile_steps / (2 * quad_steps); ++pair) {
      const int quad = pair % quads;
      const std::uint16_t* ends[2];
      for (int output = 0; output < 2; ++output) {
        const int index = 2 * pair + output;
        if (output == 1 && quad > 0) {
          pick(sums(memory, pair, 1, quad).data(), ends[0], memory);
        }
        std::uint16_t* const origins = memory.origins.data() + index * nodes;
        take_quad(targets, index, factors, quad == 0 ? memory.zeros : memory.picked, origins,
                  memory, subtract);
        ends[output] = origins;
      }
      if (quad < quads - 1) feed_later_quads(pair, factors, ends, memory);
    }
  }

  static Buffer<std::uint32_t>& sums(Memory& memory, int pair, int output, int quad) {
    return memory.sums[at((pair % 2 * 2 + output) * quads + quad)];
  }

  /// Picks the slots of a quad as they are for paths that have taken another quad since.
  void pick(const std::uint32_t* words, const std::uint16_t* origins, Memory& memory) const {
    const SlotFunctions& functions = layout_.kernels->slots;
    std::uint16_t* const from = memory.before[0].data();
    functions.find_nodes(origins, nullptr, bits_, layout_.nodes(), from);
    functions.pick(words, from, layout_.nodes(), memory.picked);
  }

  /// Takes the four steps of the index-th quad of the tile.
  void take_quad(const float* targets, int index, const Factors& factors, ConstSlotPlanes slots,
                 std::uint16_t* origins, Memory& memory, std::uint16_t& subtract) const {
    FeedbackStep step;
    step.table = table_.data();
    step.limit = static_cast<std::int16_t>(scaling_.limit);
    step.slots_in = slots;
    step.origins_in = starts_.data();
    for (int k = 0; k < quad_steps; ++k) {
      const int place = index * quad_steps + k;
      const int visit = index / 2 % quads * quad_steps + k;
      const bool last = k == quad_steps - 1;
      // Until paths can be at any node costs are not lowered: those of nodes without one stay.
      const bool partial = place < steps_to_any_node(bits_);
      step.costs_in = memory.costs[k % 2].data();
      step.costs_out = memory.costs[(k + 1) % 2].data();
      step.slots_out = last ? memory.errors[index % 2] : memory.passing[k % 2];
      step.origins_out = last ? origins : memory.passing_origins[k % 2].data();
      step.target = scaling_.target(targets[place]);
      step.weight = factors.weight[visit];
      step.unit = factors.unit[visit];
      for (int j = 0; j + k + 1 < quad_steps; ++j) {
        step.factor[at(j)] = factors.factor[visit][visit + 1 + j];
      }
      step.subtract = subtract;
      if (bits_ == max_narrow_bits && !partial) step.highest = highest_cut_cost;
      const std::uint16_t least = layout_.kernels->feedback[bits_][k](step);
      subtract = partial ? std::uint16_t{0} : least;
      step.slots_in = memory.passing[k % 2];
      step.origins_in = step.origins_out;
    }
  }

  /// Adds what the errors of a pair of quads bring to the sums of those after it.
  void feed_later_quads(int pair, const Factors& factors, const std::uint16_t* const* ends,
                        Memory& memory) const {
    const index_t nodes = layout_.nodes();
    const SlotFunctions& functions = layout_.kernels->slots;
    functions.to_words(memory.errors[0], nodes, memory.words.data());
    pick(memory.words.data(), ends[1], memory);
    functions.find_nodes(ends[0], memory.before[0].data(), bits_, nodes, memory.before[1].data());
    const int quad = pair % quads;
    FeedbackSums step;
    step.from = memory.before[1].data();
    step.nodes = nodes;
    for (int output = 0; output < 2; ++output) {
      step.errors = output == 0 ? memory.picked : memory.errors[1];
      for (int later = quads - 1; later > quad; --later) {
        step.in = quad == 0 ? nullptr : sums(memory, pair, output, later).data();
        // The next quad is that of the first output: its slots take the place of the errors.
        const bool next = output == 0 && later == quad + 1;
        step.words_out = next ? nullptr : sums(memory, pair + 1, output, later).data();
        step.slots_out = memory.picked;
        for (int j = 0; j < quad_steps; ++j) {
          for (int i = 0; i < quad_steps; ++i) {
            step.factor[j][i] = factors.factor[quad * quad_steps + j][later * quad_steps + i];
          }
        }
        functions.add_feedback(step);
      }
    }
  }

  /// Writes the states on the best path to `node`.
  void trace_back(const Memory& memory, int node, std::uint16_t* states) const {
    const int symbol = layout_.symbols() - 1;
    for (int index = tile_steps / quad_steps - 1; index >= 0; --index) {
      const int origin = memory.origins[index * layout_.nodes() + layout_.position_of(node)];
      const int before = node_at_[at(origin >> bits_)];
      int state = before;
      for (int k = 0; k < quad_steps; ++k) {
        const int shift = (quad_steps - 1 - k) * bits_;
        state =
            (state << bits_ | (k == 0 ? origin & symbol : node >> shift & symbol)) % state_count;
        states[index * quad_steps + k] = static_cast<std::uint16_t>(state);
      }
      node = before;
    }
  }

  int bits_;
  Layout layout_;
  Scaling scaling_;
  Buffer<std::int16_t> table_;
  std::unique_ptr<TileSearch> plain_;
  Buffer<std::uint16_t> starts_;  ///< the origins of paths before a quad
  std::vector<int> node_at_;      ///< by position
};

}  // namespace

TileFeedback::TileFeedback(MatrixView<const double> block) {
  double d[tile_side][tile_side];
  for (int i = 0; i < tile_side; ++i) {
    for (int j = 0; j < tile_side; ++j) {
      d[i][j] = block(std::max(input_at(i), input_at(j)), std::min(input_at(i), input_at(j)));
    }
  }
  // D = M diag(d) Mᵀ, M unit upper triangular, so that ε = e M: an input's ε takes errors in of
  // those visited before it. From the last column to the first.
  double m[tile_side][tile_side] = {};
  for (int i = tile_side - 1; i >= 0; --i) {
    if (!(d[i][i] > 0)) continue;
    weight_[i] = d[i][i];
    for (int j = 0; j < i; ++j) m[j][i] = d[j][i] / d[i][i];
    for (int j = 0; j < i; ++j) {
      for (int k = 0; k < i; ++k) d[j][k] -= m[j][i] * d[i][i] * m[k][i];
    }
  }
  // f = e m, where m = M − I and e = ε − f: so f = ε l with l = m − l m, column after column.
  for (int i = 0; i < tile_side; ++i) {
    for (int j = 0; j < i; ++j) {
      double sum = m[j][i];
      for (int k = j + 1; k < i; ++k) sum -= factor_[j][k] * m[k][i];
      factor_[j][i] = sum;
    }
  }
  const double most = *std::max_element(weight_, weight_ + tile_side);
  for (double& w : weight_) w /= most > 0 ? most : 1;
}

std::unique_ptr<FeedbackSearch> make_feedback_search(Codebook codebook, int bits, SeamSearch seam,
                                                     const Kernels& kernels) {
  if (bits < 1 || bits > max_feedback_bits) {
    fail("feedback inside tiles takes 1 to {} bits, not {}", max_feedback_bits, bits);
  }
  return std::make_unique<Search>(codebook, bits, seam, kernels);
}

std::unique_ptr<FeedbackSearch> make_feedback_search(Codebook codebook, int bits, SeamSearch seam) {
  return make_feedback_search(codebook, bits, seam, best_kernels());
}

}  // namespace quip::trellis
