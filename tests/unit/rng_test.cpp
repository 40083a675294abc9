#include "quip/core/rng.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace quip::rng_test {
namespace {

// The published known answer of Philox 4×32-10 for key 0, counter 0: 6627e8d5 e169c58d …
TEST(RandomStream, GivesThePublishedPhiloxValues) {
  EXPECT_EQ(RandomStream(0).bits(0), 0xe169c58d6627e8d5ULL);
}

TEST(RandomStream, NormalsHaveTheMomentsOfANormal) {
  const RandomStream random(3);
  constexpr int n = 100000;
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double x = random.normal(i);
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  // Five standard errors: 1/√n, √(2/n), √(96/n).
  EXPECT_NEAR(sum / n, 0.0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1.0, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(fourth / n, 3.0, 5 * std::sqrt(96.0 / n));
}

TEST(RandomStream, PermutationsHoldEveryIndexOnce) {
  for (const index_t n : {index_t{1}, index_t{2}, index_t{257}}) {
    std::vector<index_t> order = RandomStream(4).permutation(n);
    std::sort(order.begin(), order.end());
    std::vector<index_t> expected(static_cast<std::size_t>(n));
    std::iota(expected.begin(), expected.end(), index_t{0});
    EXPECT_EQ(order, expected);
  }
}

TEST(RandomStream, EveryPlaceOfAPermutationIsEquallyLikely) {
  std::vector<int> hits(4, 0);
  constexpr int draws = 4000;
  for (std::uint64_t key = 0; key < draws; ++key) {
    ++hits[static_cast<std::size_t>(RandomStream(key).permutation(4)[0])];
  }
  for (const int count : hits) EXPECT_NEAR(count, draws / 4.0, 5 * std::sqrt(draws * 3.0 / 16));
}

TEST(DeriveKey, SeparatesSeedLayerAndPurpose) {
  const auto key = derive_key(1, "a", "U");
  EXPECT_NE(key, derive_key(2, "a", "U"));
  EXPECT_NE(key, derive_key(1, "b", "U"));
  EXPECT_NE(key, derive_key(1, "a", "V"));
  EXPECT_NE(derive_key(1, "ab", "c"), derive_key(1, "a", "bc"));
}

}  // namespace
}  // namespace quip::rng_test
