// Feedback inside the tile: the factors of a diagonal block, the search against one that carries
// its paths' sums as they are defined, and what it gains.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/trellis/kernels.hpp"
#include "quant/trellis/scaling.hpp"
#include "support/trellis_paths.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/trellis/feedback.hpp"

namespace quip::trellis::trellis_feedback_test {
namespace {

constexpr int visits[] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

/// Correlated inputs: A Aᵀ of a random A [16 × 24] and a common direction.
Matrix<double> correlated(double common) {
  const RandomStream random(5);
  Matrix<double> d(tile_side, tile_side, 0.0);
  for (index_t i = 0; i < tile_side; ++i) {
    for (index_t j = 0; j < tile_side; ++j) {
      d(i, j) = common;
      for (index_t k = 0; k < 24; ++k) {
        d(i, j) += random.normal(static_cast<std::uint64_t>(i * 24 + k)) *
                   random.normal(static_cast<std::uint64_t>(j * 24 + k));
      }
    }
  }
  return d;
}

Matrix<double> identity() {
  Matrix<double> d(tile_side, tile_side, 0.0);
  for (index_t i = 0; i < tile_side; ++i) d(i, i) = 3;
  return d;
}

/// Returns the loss Σ e D eᵀ of all outputs of all tiles.
double loss(const Matrix<double>& d, const std::vector<float>& targets, const States& states) {
  std::vector<float> values(states.size());
  decode_states(Codebook::mul1, states.data(), std::ssize(states), values.data());
  double sum = 0;
  for (std::size_t tile = 0; tile < targets.size(); tile += tile_steps) {
    double e[tile_side][tile_side];
    for (int i = 0; i < tile_steps; ++i) {
      const TilePlace place = place_of(i);
      e[place.output][place.input] = double{targets[tile + at(i)]} - values[tile + at(i)];
    }
    for (const auto& row : e) {
      for (index_t i = 0; i < tile_side; ++i) {
        for (index_t j = 0; j < tile_side; ++j) sum += row[i] * d(i, j) * row[j];
      }
    }
  }
  return sum;
}

States encode(const FeedbackSearch& search, const std::vector<float>& targets,
              const Matrix<double>& d) {
  States states(targets.size());
  const auto workspace = search.workspace();
  search.encode(targets.data(), std::ssize(targets) / tile_steps, TileFeedback(d.cview()),
                *workspace, states.data());
  return states;
}

int cut(int x) { return std::clamp(x, -32768, 32767); }
int product(int x, int fraction) { return (x * fraction + (1 << 14)) >> 15; }
std::int8_t upper_byte(int x) { return static_cast<std::int8_t>(cut(x + 128) >> 8); }
int fraction(double x) { return static_cast<int>(std::lrint(std::min(x * 32768, 32767.0))); }

/// A path to a node. Errors and sums of two outputs are bytes, by visits of their inputs.
struct Path {
  std::uint64_t cost = std::numeric_limits<std::uint64_t>::max();
  std::int8_t sums[2][tile_side] = {};
  std::int8_t errors[2][tile_side] = {};
};

/// The search as it is defined, path by path, along the whole ring from a node back to it.
class SearchAsDefined {
 public:
  SearchAsDefined(int bits, const TileFeedback& feedback)
      : bits_(bits), shift_(bits <= 2 ? 2 : 3), scaling_(scaling(Codebook::mul1, bits)) {
    for (int i = 0; i < tile_side; ++i) {
      weight_[i] = fraction(std::max(feedback.weight(i), 1.0 / 16));
      double norm = 0;
      for (int j = 0; j < i; ++j) norm += feedback.factor(j, i) * feedback.factor(j, i);
      norm = std::clamp(std::sqrt(norm), 1e-6, double(1 << shift_));
      unit_[i] = fraction(norm / (1 << shift_));
      for (int j = 0; j < i; ++j) factor_[j][i] = fraction(feedback.factor(j, i) / norm);
    }
  }

  States states(const float* targets, int node) const {
    const int nodes = state_count >> bits_;
    std::vector<Path> paths(at(nodes));
    paths[at(node)].cost = 0;
    std::vector<std::uint8_t> winners(at(nodes) * tile_steps);
    for (int i = 0; i < tile_steps; ++i) {
      std::vector<Path> next(at(nodes));
      for (int state = 0; state < state_count; ++state) {
        const Path& from = paths[at(state >> bits_)];
        if (from.cost == Path{}.cost) continue;
        const int e = error(from, i, targets[i], state);
        const std::uint64_t cost = from.cost + cost_of(i, e);
        Path& to = next[at(state % nodes)];
        if (cost >= to.cost) continue;
        to = from;
        to.cost = cost;
        feed(to, i, e);
        winners[at(i * nodes + state % nodes)] = static_cast<std::uint8_t>(state / nodes);
      }
      paths.swap(next);
    }
    return states_to(node, bits_, winners);
  }

 private:
  static int output_of(int step) { return place_of(step).output / 8; }
  static int visit_of(int step) {
    const int* const found = std::find(visits, visits + tile_side, place_of(step).input);
    return static_cast<int>(found - visits);
  }

  int error(const Path& path, int step, float target, int state) const {
    const int visit = visit_of(step);
    const int sum = path.sums[output_of(step)][visit] * 256;
    const int aim = std::clamp(cut(scaling_.target(target) + product(sum, unit_[visit])),
                               -scaling_.limit, scaling_.limit);
    return aim - scaling_.values[at(state)];
  }

  std::uint64_t cost_of(int step, int error) const {
    const auto square = static_cast<int>(distance_cost(bits_, error, 0));
    return static_cast<std::uint64_t>(product(square, weight_[visit_of(step)]));
  }

  /// Feeds an error back to the inputs of its quad, those of a pair of quads to all others.
  void feed(Path& path, int step, int e) const {
    const int output = output_of(step);
    const int visit = visit_of(step);
    const int wide = cut(cut(e) * (1 << shift_));
    path.errors[output][visit] = upper_byte(wide);
    for (int i = visit + 1; i < visit / 4 * 4 + 4; ++i) {
      std::int8_t& sum = path.sums[output][i];
      sum = upper_byte(cut(sum * 256 + product(wide, factor_[visit][i])));
    }
    if (step % 8 < 7) return;
    for (int o = 0; o < 2; ++o) {
      for (int i = visit + 1; i < tile_side; ++i) {
        int sum = path.sums[o][i] * 256;
        for (int j = visit - 3; j <= visit; ++j) {
          sum = cut(sum + product(path.errors[o][j] * 256, factor_[j][i]));
        }
        path.sums[o][i] = upper_byte(sum);
      }
    }
    if (step % 32 == 31) std::fill_n(&path.sums[0][0], 2 * tile_side, std::int8_t{0});
  }

  int bits_;
  int shift_;
  Scaling scaling_;
  int weight_[tile_side] = {};
  int unit_[tile_side] = {};
  int factor_[tile_side][tile_side] = {};
};

TEST(TrellisFeedback, FactorsGiveTheLossOfABlock) {
  const Matrix<double> d = correlated(8);
  const TileFeedback feedback(d.cview());
  double greatest = 0;
  for (int i = 0; i < tile_side; ++i) greatest = std::max(greatest, feedback.weight(i));
  EXPECT_EQ(greatest, 1);
  // For some errors e, Σ dᵢ (eᵢ + fᵢ)² is a multiple of e D eᵀ that does not depend on e.
  std::vector<double> ratios;
  for (std::uint64_t key = 0; key < 4; ++key) {
    const RandomStream random(key);
    double direct = 0;
    for (index_t i = 0; i < tile_side; ++i) {
      for (index_t j = 0; j < tile_side; ++j) {
        direct += random.normal(static_cast<std::uint64_t>(i)) * d(i, j) *
                  random.normal(static_cast<std::uint64_t>(j));
      }
    }
    double epsilon[tile_side];
    double factored = 0;
    for (int i = 0; i < tile_side; ++i) {
      epsilon[i] = random.normal(static_cast<std::uint64_t>(visits[i]));
      for (int j = 0; j < i; ++j) epsilon[i] += epsilon[j] * feedback.factor(j, i);
      factored += feedback.weight(i) * epsilon[i] * epsilon[i];
    }
    ratios.push_back(direct / factored);
  }
  for (const double ratio : ratios) EXPECT_NEAR(ratio, ratios[0], 1e-9 * ratios[0]);
}

TEST(TrellisFeedback, FollowsItsDefinition) {
  const Matrix<double> d = correlated(8);
  for (const int bits : {2, 4}) {
    const std::vector<float> targets = gaussian(1, 0.9F, 9);
    const States states = encode(*make_feedback_search(Codebook::mul1, bits), targets, d);
    const SearchAsDefined defined(bits, TileFeedback(d.cview()));
    EXPECT_EQ(states, defined.states(targets.data(), states.back() % (state_count >> bits)))
        << bits;
  }
}

TEST(TrellisFeedback, WithoutCorrelationIsTheSearchWithoutFeedback) {
  for (int bits = 1; bits <= max_feedback_bits; ++bits) {
    const std::vector<float> targets = gaussian(2, 0.9F, 2);
    for (const SeamSearch seam : {SeamSearch::whole_round, SeamSearch::near_seam}) {
      States plain(targets.size());
      const auto search = make_tile_search(Codebook::mul1, bits, seam);
      search->encode(targets.data(), 2, *search->workspace(), plain.data());
      EXPECT_EQ(encode(*make_feedback_search(Codebook::mul1, bits, seam), targets, identity()),
                plain)
          << bits;
    }
  }
}

TEST(TrellisFeedback, AllInstructionSetsFindTheSameStates) {
  for (int bits = 1; bits <= max_feedback_bits; ++bits) {
    std::vector<float> targets = gaussian(1, 0.9F, 3);
    for (std::size_t i = 96; i < 160; ++i) targets[i] = i % 3 == 0 ? 6.0F : -0.1F;
    targets[40] = -1e4F;
    const Matrix<double> d = correlated(bits % 2 == 0 ? 8 : 300);
    const auto with = [&](const Kernels& kernels) {
      return encode(*make_feedback_search(Codebook::mul1, bits, SeamSearch::whole_round, kernels),
                    targets, d);
    };
    const States states = with(generic_kernels());
    for (const Kernels* kernels : {avx2_kernels(), avx512_kernels()}) {
      if (kernels != nullptr) {
        EXPECT_EQ(states, with(*kernels)) << bits << ' ' << kernels->name;
      }
    }
  }
}

TEST(TrellisFeedback, GetsBackWhatCorrelatedInputsLose) {
  for (int bits = 1; bits <= max_feedback_bits; ++bits) {
    const std::vector<float> targets = gaussian(4, 0.9F, 4);
    States plain(targets.size());
    const auto search = make_tile_search(Codebook::mul1, bits);
    search->encode(targets.data(), 4, *search->workspace(), plain.data());
    const auto with = make_feedback_search(Codebook::mul1, bits);
    for (const double common : {8.0, 1e4}) {  // 1e4: sums are cut off
      const Matrix<double> d = correlated(common);
      EXPECT_LT(loss(d, targets, encode(*with, targets, d)), 0.7 * loss(d, targets, plain))
          << bits << ' ' << common;
    }
  }
}

TEST(TrellisFeedback, InputsThatOthersDetermineHaveNoWeight) {
  const TileFeedback feedback(Matrix<double>(tile_side, tile_side, 2.0).cview());
  EXPECT_EQ(feedback.weight(tile_side - 1), 1);  // of the input that makes up for all others
  for (int i = 0; i < tile_side - 1; ++i) EXPECT_EQ(feedback.weight(i), 0) << i;
}

TEST(TrellisFeedback, MoreBitsAreAnError) {
  EXPECT_THROW((void)make_feedback_search(Codebook::mul1, 5), Error);
}

}  // namespace
}  // namespace quip::trellis::trellis_feedback_test
