#include "quip/pipeline/mixed_bits.hpp"

#include <gtest/gtest.h>

namespace quip::mixed_bits_test {
namespace {

BitUnit unit(double weights, double divergence) { return {{}, weights, divergence}; }

const std::vector<int> widths{2, 3, 4, 5};

// From 2 to 3 bits a unit gains 3/64 of what it loses, from 3 to 4 a quarter of that: the first
// unit is worth its third bit before the others (1 > 0.5), and its fourth after the second's third
// (0.25 < 0.5) but before the last's (0.2).
TEST(AllocateBits, EachBitGoesWhereItTakesOffMost) {
  const std::vector<BitUnit> units{unit(1, 1.0), unit(1, 0.5), unit(1, 0.2)};
  const auto bits = [&](double mean) { return allocate_bits(units, mean, widths); };
  EXPECT_EQ(bits(2.0), (std::vector<int>{2, 2, 2}));
  EXPECT_EQ(bits(2.34), (std::vector<int>{3, 2, 2}));
  EXPECT_EQ(bits(2.67), (std::vector<int>{3, 3, 2}));
  EXPECT_EQ(bits(3.0), (std::vector<int>{4, 3, 2}));
  EXPECT_EQ(bits(3.34), (std::vector<int>{4, 3, 3}));
  EXPECT_EQ(bits(9.0), (std::vector<int>{5, 5, 5}));
}

// A wide unit pays for its bits by weights; what no longer fits goes to a smaller one.
TEST(AllocateBits, TheMeanIsOverWeights) {
  const std::vector<BitUnit> units{unit(3, 3.0), unit(1, 0.9)};
  EXPECT_EQ(allocate_bits(units, 2.75, widths), (std::vector<int>{3, 2}));
  EXPECT_EQ(allocate_bits(units, 2.5, widths), (std::vector<int>{2, 4}));
  EXPECT_EQ(allocate_bits(units, 3.0, widths), (std::vector<int>{3, 3}));
}

// From 4 bits a scalar code goes to 8, or not at all.
TEST(AllocateBits, WidthsMayHaveGaps) {
  const std::vector<int> scalar{2, 3, 4, 8};
  const std::vector<BitUnit> units{unit(1, 1.0), unit(1, 1e-6)};
  EXPECT_EQ(allocate_bits(units, 4.5, scalar), (std::vector<int>{4, 4}));
  EXPECT_EQ(allocate_bits(units, 5.0, scalar), (std::vector<int>{8, 2}));
}

TEST(AllocateBits, WidthsAreThoseOfTheCodebook) {
  LayerOptions options;
  EXPECT_EQ(candidate_widths(options, 1.5), (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(candidate_widths(options, 2.5), (std::vector<int>{2, 3, 4, 5}));
  EXPECT_EQ(candidate_widths(options, 7.5), (std::vector<int>{2, 3, 4, 5, 6, 7, 8}));
  options.codebook = CodebookKind::scalar;
  EXPECT_EQ(candidate_widths(options, 2.5), (std::vector<int>{2, 3, 4}));
  EXPECT_EQ(candidate_widths(options, 6.0), (std::vector<int>{2, 3, 4, 8}));
}

}  // namespace
}  // namespace quip::mixed_bits_test
