#include "quip/quant/trellis/feedback.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/trellis/kernels.hpp"
#include "quant/trellis/layout.hpp"
#include "quant/trellis/scaling.hpp"

#include "quip/core/error.hpp"

namespace quip::trellis {
namespace {

static_assert(max_feedback_bits == max_narrow_bits);

/// After that many steps a tile goes on with two other outputs.
constexpr int steps_of_outputs = 2 * tile_side;

/// Returns the place of a step's input in the order of visits.
constexpr int visit_of(int step) { return step / 8 % 4 * 4 + step % 4; }
/// True if a step codes the second of its two outputs.
constexpr bool is_second(int step) { return step / 4 % 2 == 1; }

/// Returns the input that is visited as the i-th.
constexpr int input_at(int i) { return place_of(i / 4 * 8 + i % 4).input; }

std::int16_t rounded(double x) {
  return static_cast<std::int16_t>(std::lrint(std::clamp(x, -32767.0, 32767.0)));
}

/// The costs, sums and winners of a walk along the ring, or a part of it.
struct Memory final : FeedbackSearch::Workspace {
  explicit Memory(int nodes)
      : costs(index_t{2} * nodes),
        sums(index_t{2} * carried_sums * nodes),
        winners(index_t{tile_steps} * nodes) {}

  Buffer<std::uint16_t> costs;
  Buffer<std::int16_t> sums;
  Buffer<std::uint16_t> winners;
};

class Search final : public FeedbackSearch {
 public:
  Search(Codebook codebook, int bits, SeamSearch seam, const Kernels& kernels)
      : bits_(bits),
        seam_(seam),
        layout_{bits, &kernels},
        scaling_(scaling(codebook, bits)),
        table_(table_of<std::uint16_t>(layout_, scaling_)) {}

  [[nodiscard]] std::unique_ptr<Workspace> workspace() const override {
    return std::make_unique<Memory>(layout_.nodes());
  }

  void encode(const float* targets, index_t count, const TileFeedback& feedback,
              Workspace& workspace, std::uint16_t* states) const override {
    auto& memory = static_cast<Memory&>(workspace);
    const Steps steps = steps_with(feedback);
    for (index_t tile = 0; tile < count; ++tile) {
      std::int16_t integers[tile_steps];
      for (int i = 0; i < tile_steps; ++i) {
        integers[i] = scaling_.target(targets[tile * tile_steps + i]);
      }
      // Both walks start where the tile changes its outputs, with no feedback.
      const int half = seam_ == SeamSearch::whole_round ? tile_steps / 2 : tile_steps / 4;
      std::uint16_t* const found = states + tile * tile_steps;
      forward(integers, steps, tile_steps - half, 2 * half, free_start, memory);
      const int end = layout_.best_node(memory.costs.data());
      const int node = trace_back(memory, 2 * half, half, end, found);
      forward(integers, steps, 0, tile_steps, node, memory);
      trace_back(memory, tile_steps, 0, node, found);
    }
  }

 private:
  /// The steps for two outputs, all but their targets and where they find what.
  using Steps = std::array<FeedbackStep, steps_of_outputs>;

  [[nodiscard]] Steps steps_with(const TileFeedback& feedback) const {
    Steps steps;
    for (int i = 0; i < steps_of_outputs; ++i) {
      FeedbackStep& step = steps[at(i)];
      const int visit = visit_of(i);
      const int output = is_second(i) ? tile_side : 0;
      step.table = table_.data();
      step.limit = static_cast<std::int16_t>(scaling_.limit);
      step.weight = rounded(std::ldexp(feedback.weight(visit), 15));
      step.own = output + visit;
      for (int later = visit + 1; later < tile_side; ++later) {
        step.factor[step.fed_count] =
            rounded(std::ldexp(feedback.factor(visit, later), 15 - feedback_shift));
        step.carried[step.fed_count++] = static_cast<std::int8_t>(output + later);
      }
      // The first output is ahead of the second by up to four visits.
      for (int other = first_to_come(i); other < tile_side; ++other) {
        step.carried[step.fed_count + step.kept_count++] =
            static_cast<std::int8_t>(tile_side - output + other);
      }
    }
    return steps;
  }

  /// Returns the first visit that the other output still has to come after step i.
  static int first_to_come(int i) {
    return is_second(i) ? visit_of(i) / 4 * 4 + 4 : visit_of(i) / 4 * 4;
  }

  /// Walks `count` steps from step `first` of the ring on; leaves costs in the first half of the
  /// memory's.
  void forward(const std::int16_t* targets, const Steps& steps, int first, int count, int start,
               Memory& memory) const {
    const index_t nodes = layout_.nodes();
    std::fill_n(memory.costs.data(), nodes, std::uint16_t{0});
    std::uint16_t subtract = 0;
    for (int i = 0; i < count; ++i) {
      const int place = (first + i) % tile_steps;
      FeedbackStep step = steps[at(place % steps_of_outputs)];
      step.target = targets[place];
      step.in = memory.costs.data() + i % 2 * nodes;
      step.out = memory.costs.data() + (i + 1) % 2 * nodes;
      step.sums_in = memory.sums.data() + i % 2 * carried_sums * nodes;
      step.sums_out = memory.sums.data() + (i + 1) % 2 * carried_sums * nodes;
      step.winners = memory.winners.data() + i * nodes;
      if (place % steps_of_outputs == 0) {
        std::fill_n(memory.sums.data() + i % 2 * carried_sums * nodes, carried_sums * nodes,
                    std::int16_t{0});
      }
      const bool partial = start != free_start && i < steps_to_any_node(bits_);
      step.subtract = subtract;
      layout_.take_reached(step, std::max(start, 0), partial ? i : steps_to_any_node(bits_));
      const FeedbackFunctions& functions = layout_.kernels->feedback[bits_];
      const std::uint16_t least = (partial ? functions.part : functions.whole)(step);
      subtract = partial ? std::uint16_t{0} : least;
    }
  }

  /// Writes the states on the best path to `node`, from step `count` of the walk back to `until`;
  /// returns the node at which it is there.
  int trace_back(const Memory& memory, int count, int until, int node,
                 std::uint16_t* states) const {
    const index_t nodes = layout_.nodes();
    for (int i = count - 1; i >= until; --i) {
      const int h = memory.winners[i * nodes + layout_.position_of(node)];
      const int state = h * layout_.nodes() + node;
      states[i] = static_cast<std::uint16_t>(state);
      node = state >> bits_;
    }
    return node;
  }

  int bits_;
  SeamSearch seam_;
  Layout layout_;
  Scaling scaling_;
  Buffer<std::int16_t> table_;
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
    if (!(d[i][i] > 0)) fail("a diagonal block of the Hessian's LDL is not positive definite");
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
  for (double& w : weight_) w /= most;
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
