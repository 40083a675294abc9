// Feedback inside the tile: the factors of a diagonal block, the search against one that carries
// its paths' sums as they are defined, and what it gains.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/trellis/kernels.hpp"
#include "quant/trellis/scaling.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/trellis/feedback.hpp"

namespace quip::trellis {
namespace {

using States = std::vector<std::uint16_t>;

constexpr int visits[] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

std::vector<float> gaussian(index_t tiles, std::uint64_t key) {
  const RandomStream random(key);
  std::vector<float> x(at(tiles * tile_steps));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.9F * static_cast<float>(random.normal(i));
  return x;
}

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

std::int16_t rounded(double x) { return static_cast<std::int16_t>(std::lrint(x)); }

int cut(int x) { return std::clamp(x, -32768, 32767); }

/// A path to a node.
struct Path {
  std::uint64_t cost = std::numeric_limits<std::uint64_t>::max();
  int sums[2][tile_side] = {};
};

/// The search as it is defined, path by path, along the whole ring from a node back to it.
States search_as_defined(int bits, const float* targets, const TileFeedback& feedback, int node) {
  const Scaling s = scaling(Codebook::mul1, bits);
  const int nodes = state_count >> bits;
  std::vector<Path> paths(at(nodes));
  paths[at(node)].cost = 0;
  std::vector<std::uint8_t> winners(at(nodes) * tile_steps);
  for (int i = 0; i < tile_steps; ++i) {
    const TilePlace place = place_of(i);
    const auto visit =
        static_cast<int>(std::find(visits, visits + tile_side, place.input) - visits);
    const int output = place.output / 8;
    const int weight =
        std::min(32767, int{rounded(std::ldexp(std::min(feedback.weight(visit), 0.9999), 15))});
    std::vector<Path> next(at(nodes));
    std::vector<int> errors(at(nodes));
    for (int state = 0; state < state_count; ++state) {
      const Path& from = paths[at(state >> bits)];
      if (from.cost == Path{}.cost) continue;
      const int target = std::clamp(cut(s.target(targets[i]) + cut(4 * from.sums[output][visit])),
                                    -s.limit, s.limit);
      const auto square = static_cast<int>(distance_cost(bits, target, s.values[at(state)]));
      const std::uint64_t cost =
          from.cost + static_cast<std::uint64_t>((square * weight + (1 << 14)) >> 15);
      Path& to = next[at(state % nodes)];
      if (cost >= to.cost) continue;
      to = from;
      to.cost = cost;
      errors[at(state % nodes)] = cut(target - s.values[at(state)]);
      winners[at(i * nodes + state % nodes)] = static_cast<std::uint8_t>(state / nodes);
    }
    for (int to = 0; to < nodes; ++to) {
      for (int later = visit + 1; later < tile_side; ++later) {
        const int factor = rounded(std::ldexp(feedback.factor(visit, later), 13));
        int& sum = next[at(to)].sums[output][later];
        sum = cut(sum + ((errors[at(to)] * factor + (1 << 14)) >> 15));
      }
      if (i % 32 == 31) std::fill_n(&next[at(to)].sums[0][0], 2 * tile_side, 0);
    }
    paths.swap(next);
  }
  States states(tile_steps);
  int to = node;
  for (int i = tile_steps - 1; i >= 0; --i) {
    const int state = winners[at(i * nodes + to)] * nodes + to;
    states[at(i)] = static_cast<std::uint16_t>(state);
    to = state >> bits;
  }
  return states;
}

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
  for (const int bits : {1, 3}) {
    const std::vector<float> targets = gaussian(1, 9);
    const States states = encode(*make_feedback_search(Codebook::mul1, bits), targets, d);
    for (std::size_t first = 0; first < states.size(); first += tile_steps) {
      const int node = states[first + tile_steps - 1] % (state_count >> bits);
      EXPECT_EQ(States(states.begin() + std::ptrdiff_t(first),
                       states.begin() + std::ptrdiff_t(first + tile_steps)),
                search_as_defined(bits, targets.data() + first, TileFeedback(d.cview()), node))
          << bits;
    }
  }
}

TEST(TrellisFeedback, WithoutCorrelationIsTheSearchWithoutFeedback) {
  for (int bits = 1; bits <= max_feedback_bits; ++bits) {
    const std::vector<float> targets = gaussian(2, 2);
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
    std::vector<float> targets = gaussian(1, 3);
    for (std::size_t i = 96; i < 160; ++i) targets[i] = i % 3 == 0 ? 6.0F : -0.1F;
    targets[40] = -1e4F;
    for (const double common : {8.0, 300.0}) {
      const Matrix<double> d = correlated(common);
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
}

TEST(TrellisFeedback, GetsBackWhatCorrelatedInputsLose) {
  for (int bits = 1; bits <= max_feedback_bits; ++bits) {
    const std::vector<float> targets = gaussian(4, 4);
    const Matrix<double> d = correlated(8);
    States plain(targets.size());
    const auto search = make_tile_search(Codebook::mul1, bits);
    search->encode(targets.data(), 4, *search->workspace(), plain.data());
    const double without = loss(d, targets, plain);
    const double with =
        loss(d, targets, encode(*make_feedback_search(Codebook::mul1, bits), targets, d));
    EXPECT_LT(with, 0.7 * without) << bits;
  }
}

TEST(TrellisFeedback, WhatItCannotTakeIsAnError) {
  EXPECT_THROW((void)make_feedback_search(Codebook::mul1, 5), Error);
  Matrix<double> d = identity();
  d(3, 3) = -1;
  EXPECT_THROW(TileFeedback{d.cview()}, Error);
}

}  // namespace
}  // namespace quip::trellis
