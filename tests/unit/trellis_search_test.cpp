// The search for the states of a tile: exact, close to the bound on Gaussian sources, the same with
// every instruction set, and sane on hostile tiles.
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
#include "quip/quant/trellis/search.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis::trellis_search_test {
namespace {

constexpr Codebook codebooks[] = {Codebook::mul1, Codebook::mcg, Codebook::three_inst};

/// The scales at which a Gaussian source has the least error, from 1 bit on.
constexpr float best_scale[] = {1, 0.98F, 0.96F, 0.92F, 0.88F, 0.86F, 0.84F, 0.82F, 0.8F};

States encode(const TileSearch& search, const std::vector<float>& targets) {
  States states(targets.size());
  const auto workspace = search.workspace();
  search.encode(targets.data(), std::ssize(targets) / tile_steps, *workspace, states.data());
  return states;
}

std::vector<float> values_of(const States& states, Codebook codebook = Codebook::mul1) {
  std::vector<float> values(states.size());
  decode_states(codebook, states.data(), std::ssize(states), values.data());
  return values;
}

double mean_square(const std::vector<float>& x, const std::vector<float>& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(double{x[i]} - y[i], 2);
  return sum / static_cast<double>(x.size());
}

/// True if each state holds what it must of the one before, all round the tile.
bool is_ring(const States& states, int bits) {
  for (std::size_t i = 0; i < states.size(); ++i) {
    const std::size_t before = i % tile_steps == 0 ? i + tile_steps - 1 : i - 1;
    if (states[i] >> bits != states[before] % (state_count >> bits)) return false;
  }
  return true;
}

/// Tiles that no Gaussian source gives: zeros, the ends, one outlier, equal, ramps, infinities.
std::vector<float> hostile(float sigma) {
  std::vector<float> x;
  const auto add = [&](auto element) {
    for (int i = 0; i < tile_steps; ++i) x.push_back(static_cast<float>(element(i)) * sigma);
  };
  add([](int) { return 0.0; });
  add([](int) { return 6.0; });
  add([](int) { return -6.0; });
  add([](int i) { return i % 2 == 0 ? 6.0 : -6.0; });
  add([](int i) { return i / 16 % 2 == 0 ? 1e30 : -1e30; });
  add([](int i) { return i == 100 ? 1e4 : 0.1; });
  add([](int i) { return i == 255 ? -1e4 : std::sin(i); });
  add([](int i) { return 0.37 + 0 * i; });
  add([](int i) { return (i - 128) / 40.0; });
  add([](int i) { return i < 128 ? std::numeric_limits<double>::infinity() : 0.5; });
  return x;
}

/// Viterbi's algorithm as it is written down, over all paths from a node back to it, where
/// `distance(target, state)` is the cost of a step: returns the states of the cheapest, of equal
/// ones those that came from the smaller state.
template <typename Cost, typename Distance>
States cheapest_ring(int bits, const float* targets, int node, Distance distance) {
  const int nodes = state_count >> bits;
  constexpr Cost unreached = std::numeric_limits<Cost>::max() / 2;
  std::vector<Cost> costs(at(nodes), unreached);
  costs[at(node)] = 0;
  std::vector<std::uint8_t> winners(at(nodes) * tile_steps);
  for (int i = 0; i < tile_steps; ++i) {
    std::vector<Cost> next(at(nodes), unreached);
    // Tests are built without inlining, and this loop takes most of their time.
    const Cost* const before = costs.data();
    Cost* const after = next.data();
    std::uint8_t* const winner = winners.data() + std::ptrdiff_t{i} * nodes;
    for (int h = 0; h < 1 << bits; ++h) {
      for (int to = 0; to < nodes; ++to) {
        const int state = h * nodes + to;
        const Cost sum = before[state >> bits] + distance(targets[i], state);
        if (sum < after[to]) {  // never where the predecessor is unreached
          after[to] = sum;
          winner[to] = static_cast<std::uint8_t>(h);
        }
      }
    }
    costs.swap(next);
  }
  return states_to(node, bits, winners);
}

/// Returns the node between the last step of a tile and its first.
int seam_of(const std::uint16_t* states, int bits) {
  return states[tile_steps - 1] % (state_count >> bits);
}

class TrellisBits : public testing::TestWithParam<int> {};

TEST_P(TrellisBits, NoSumOfCostsOverflows) {
  const int bits = GetParam();
  const std::uint64_t most = bits <= max_narrow_bits ? 0xffff : 0xffffffff;
  for (const Codebook codebook : codebooks) {
    const Scaling s = scaling(codebook, bits);
    // The dearest path of the stretch: at each step the target that is worst for the value.
    const int nodes = state_count >> bits;
    std::vector<std::uint64_t> costs(at(nodes), 0);
    for (int step = 0; step < unlowered_steps(bits); ++step) {
      std::vector<std::uint64_t> next(at(nodes), 0);
      for (int state = 0; state < state_count; ++state) {
        const int value = s.values[at(state)];
        ASSERT_LE(std::abs(value) + s.limit, bits == max_narrow_bits ? 65534 : 32767);
        const std::uint64_t cost =
            std::max(distance_cost(bits, s.limit, value), distance_cost(bits, -s.limit, value));
        std::uint64_t& node = next[at(state % nodes)];
        const std::uint64_t before = costs[at(state >> bits)];
        node = std::max(node, cost + (bits == max_narrow_bits
                                          ? std::min<std::uint64_t>(before, highest_cut_cost)
                                          : before));
      }
      costs.swap(next);
    }
    EXPECT_LE(*std::max_element(costs.begin(), costs.end()), most) << to_string(codebook);
  }
}

TEST_P(TrellisBits, AllInstructionSetsFindTheSameStates) {
  const int bits = GetParam();
  for (const Codebook codebook : codebooks) {
    // Kernels do not know the codebook: two widths, one of either kind of costs, show the others.
    if (codebook != Codebook::mul1 && bits != 2 && bits != 5) continue;
    const float sigma = codebook_rms(codebook);
    const std::vector<float> random = gaussian(1, best_scale[bits] * sigma);
    std::vector<float> targets = random;
    if (codebook == Codebook::mul1) {
      // The ends in turn, values far beyond them, an outlier.
      const std::vector<float> others = hostile(sigma);
      targets.insert(targets.end(), others.begin() + 3 * tile_steps,
                     others.begin() + 6 * tile_steps);
    }
    const States states = encode(
        *make_tile_search(codebook, bits, SeamSearch::whole_round, generic_kernels()), targets);
    const States near =
        encode(*make_tile_search(codebook, bits, SeamSearch::near_seam, generic_kernels()), random);
    EXPECT_TRUE(is_ring(states, bits));
    EXPECT_TRUE(is_ring(near, bits));
    for (const Kernels* kernels : {avx2_kernels(), avx512_kernels()}) {
      if (kernels == nullptr) continue;
      EXPECT_EQ(states, encode(*make_tile_search(codebook, bits, SeamSearch::whole_round, *kernels),
                               targets))
          << to_string(codebook) << ' ' << kernels->name;
      EXPECT_EQ(near,
                encode(*make_tile_search(codebook, bits, SeamSearch::near_seam, *kernels), random))
          << to_string(codebook) << ' ' << kernels->name;
    }
  }
}

TEST_P(TrellisBits, HostileTilesAreNearlyAsGoodAsExactCostsMakeThem) {
  const int bits = GetParam();
  const auto values = codebook_values(Codebook::mul1);
  const float most = *std::max_element(values.begin(), values.end());
  std::vector<float> targets = hostile(1);
  const States states = encode(*make_tile_search(Codebook::mul1, bits), targets);
  for (float& x : targets) x = std::clamp(x, -most, most);
  const std::vector<float> got = values_of(states);
  for (std::size_t first = 0; first < targets.size(); first += tile_steps) {
    const std::vector<float> tile(targets.begin() + std::ptrdiff_t(first),
                                  targets.begin() + std::ptrdiff_t(first + tile_steps));
    const auto square = [value = values.data()](float x, int state) {
      const double e = double{x} - value[state];
      return e * e;
    };
    const States best =
        cheapest_ring<double>(bits, tile.data(), seam_of(states.data() + first, bits), square);
    const double error = mean_square(tile, {got.begin() + std::ptrdiff_t(first),
                                            got.begin() + std::ptrdiff_t(first + tile_steps)});
    // Whole numbers lose more of costs that add up to little.
    EXPECT_LE(error, 1.015 * mean_square(tile, values_of(best))) << "tile " << first / tile_steps;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrellisBits, testing::Range(1, max_bits + 1));

TEST(TrellisSearch, FindsTheCheapestRingThroughTheNodeAtTheSeam) {
  for (const int bits : {1, 2}) {
    std::vector<float> targets = gaussian(2, best_scale[bits], 7);
    const std::vector<float> others = hostile(1);
    targets.insert(targets.end(), others.begin() + tile_steps * 3, others.begin() + tile_steps * 7);
    const States states = encode(*make_tile_search(Codebook::mul1, bits), targets);
    const Scaling s = scaling(Codebook::mul1, bits);
    std::vector<float> integers(targets.size());
    for (std::size_t i = 0; i < targets.size(); ++i) integers[i] = s.target(targets[i]);
    const auto distance = [bits, value = s.values.data()](float x, int state) {
      return std::uint64_t{distance_cost(bits, static_cast<int>(x), value[state])};
    };
    for (std::size_t first = 0; first < states.size(); first += tile_steps) {
      const States found(states.begin() + std::ptrdiff_t(first),
                         states.begin() + std::ptrdiff_t(first + tile_steps));
      EXPECT_EQ(found, cheapest_ring<std::uint64_t>(bits, integers.data() + first,
                                                    seam_of(found.data(), bits), distance))
          << bits << " bits, tile " << first / tile_steps;
    }
  }
}

TEST(TrellisSearch, GaussianSourcesHaveTheErrorThatTheCodePromises) {
  // The limit of rate–distortion theory is 4^−bits: 0.0625, 0.0156, 0.0039.
  constexpr double bound[] = {1, 0.29, 0.0690, 0.0178, 0.0047};
  for (int bits = 2; bits <= 4; ++bits) {
    const float scale = best_scale[bits];
    const std::vector<float> targets = gaussian(200, scale);  // the error to within 0.7 %
    const States states = encode(*make_tile_search(Codebook::mul1, bits), targets);
    EXPECT_LE(mean_square(targets, values_of(states)) / (scale * scale), bound[bits]) << bits;
  }
}

TEST(TrellisSearch, MoreBitsQuarterTheError) {
  for (const Codebook codebook : codebooks) {
    double before = 1.1;
    for (int bits = 1; bits <= max_bits; ++bits) {
      const float scale = best_scale[bits] * codebook_rms(codebook);
      const std::vector<float> targets = gaussian(8, scale);
      const States states = encode(*make_tile_search(codebook, bits), targets);
      const double error = mean_square(targets, values_of(states, codebook)) / (scale * scale);
      EXPECT_LT(error, before * 0.30) << to_string(codebook) << ' ' << bits;
      before = error;
    }
  }
}

TEST(TrellisSearch, ASearchNearTheSeamLosesLittle) {
  const std::vector<float> targets = gaussian(40, best_scale[2]);
  const States whole = encode(*make_tile_search(Codebook::mul1, 2), targets);
  const States near = encode(*make_tile_search(Codebook::mul1, 2, SeamSearch::near_seam), targets);
  EXPECT_TRUE(is_ring(near, 2));
  const double error = mean_square(targets, values_of(whole));
  EXPECT_NEAR(mean_square(targets, values_of(near)), error, 0.015 * error);
}

TEST(TrellisSearch, WhatIsAPathIsFoundAgain) {
  for (int bits = 1; bits <= max_bits; ++bits) {
    const RandomStream random(3);
    std::vector<std::uint16_t> packed(at(packed_words(bits)));
    for (std::size_t i = 0; i < packed.size(); ++i) {
      packed[i] = static_cast<std::uint16_t>(random.bits(i));
    }
    States states(tile_steps);
    unpack_states(packed.data(), bits, states.data());
    const std::vector<float> targets = values_of(states);
    EXPECT_LT(
        mean_square(targets, values_of(encode(*make_tile_search(Codebook::mul1, bits), targets))),
        1e-4)
        << bits;
  }
}

TEST(TrellisSearch, BitsBeyondTheFormatAreErrors) {
  EXPECT_THROW((void)make_tile_search(Codebook::mul1, 0), Error);
  EXPECT_THROW((void)make_tile_search(Codebook::mul1, 9), Error);
}

}  // namespace
}  // namespace quip::trellis::trellis_search_test
