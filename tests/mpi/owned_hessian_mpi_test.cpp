// Hessians that one rank each gets: those of exact_hessian, whichever way they go, for the bytes of
// the cheaper way.
#include <limits>
#include <string>
#include <vector>

#include "support/one_layer.hpp"
#include <gtest/gtest.h>

#include "quip/calib/cross_sum.hpp"
#include "quip/calib/hessian.hpp"
#include "quip/calib/owned_hessian.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip::owned_hessian_mpi_test {
namespace {

constexpr index_t n = 40;

class OwnedHessianMpi : public testing::Test {
 protected:
  /// Returns this rank's rows of input `i`: rank r has its share of the tokens, the last input
  /// none.
  [[nodiscard]] Matrix<float> rows_of(std::size_t i, index_t tokens) const {
    const Range mine = share_of(tokens, comm_.rank(), comm_.size());
    const Matrix<float> all = random_weights(tokens, n, 100 + i);
    Matrix<float> rows(mine.count(), n);
    std::copy_n(all.data() + mine.first * n, rows.size(), rows.data());
    return rows;
  }

  MpiCollectives comm_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
};

TEST_F(OwnedHessianMpi, AreThoseOfExactHessianForTheFewerBytes) {
  const std::vector<index_t> tokens{7, 2 * (n + 1), 2 * (n + 1) + 1, 500, 0};
  std::vector<Matrix<float>> rows;
  std::vector<OwnedInput> inputs;
  for (std::size_t i = 0; i < tokens.size(); ++i) rows.push_back(rows_of(i, tokens[i]));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    inputs.push_back({rows[i].cview(), static_cast<int>(i) % comm_.size(), "test"});
  const index_t before = UsageMeter::current().total().bytes_sent;
  const std::vector<OwnedHessian> own = owned_hessians(comm_, *backend_, inputs);
  const index_t sent = UsageMeter::current().total().bytes_sent - before;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_EQ(own[i].tokens, tokens[i]);
    if (tokens[i] == 0 || inputs[i].owner != comm_.rank()) {
      EXPECT_EQ(own[i].h.size(), 0);
    }
    if (tokens[i] == 0) continue;
    const Matrix<double> expected = exact_hessian(comm_, *backend_, inputs[i].x, 0, 1, "test");
    if (inputs[i].owner != comm_.rank()) continue;
    for (index_t r = 0; r < n; ++r) {
      for (index_t c = 0; c <= r; ++c) ASSERT_EQ(own[i].h(r, c), expected(r, c)) << i;
    }
  }
  if (comm_.size() == 1) return;
  EXPECT_TRUE(rows_travel(tokens[1], n));
  EXPECT_FALSE(rows_travel(tokens[2], n));
  // What carries the sums: rows of others' inputs, and triangles of doubles.
  index_t payload = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (inputs[i].owner == comm_.rank()) continue;
    payload +=
        rows_travel(tokens[i], n) ? rows[i].size() * 2 : (tokens[i] > 0 ? n * (n + 1) / 2 * 8 : 0);
  }
  // And what finds the scales and the numbers of tokens, and agrees on errors: some values a
  // channel.
  const auto all = static_cast<index_t>(tokens.size());
  EXPECT_GE(sent, payload);
  EXPECT_LE(sent, payload + comm_.size() * (all * (n + 2) * 16 + 400));
}

TEST_F(OwnedHessianMpi, CrossSumsAreThoseOfAllTokens) {
  const index_t m = 50;
  for (const index_t tokens : {index_t{9}, index_t{700}}) {  // rows travel, or sums
    const Matrix<float> x = rows_of(0, tokens);
    const Range mine = share_of(tokens, comm_.rank(), comm_.size());
    const Matrix<float> all_e = random_weights(tokens, m, 7);
    const ConstTensorView e = all_e.cview().middle_rows(mine.first, mine.count());
    const int owner = comm_.size() - 1;
    std::vector<OwnedHessian> own =
        owned_hessians(comm_, *backend_, {{x.cview(), owner, "test", e}});
    // The same on one rank.
    SelfCollectives self;
    const Matrix<float> all_x = random_weights(tokens, n, 100);
    const auto scales = [&](ConstTensorView a) {
      return measure_channels(self, *backend_, a, 0, 1, "test");
    };
    const ChannelScales e_scales = scales(all_e.cview());
    const ChannelScales x_scales = scales(all_x.cview());
    const CrossInput whole{all_e.cview(), e_scales, all_x.cview(), x_scales};
    const Matrix<double> expected = cross_sum_rows(self, *backend_, whole, {{0, m}});
    const CrossInput part{e, e_scales, x.cview(), x_scales};
    std::vector<Range> rows;
    for (int r = comm_.size() - 1; r >= 0; --r) rows.push_back(share_of(m, r, comm_.size()));
    const Matrix<double> some = cross_sum_rows(comm_, *backend_, part, rows);
    for (index_t i = 0; i < m; ++i) {
      for (index_t j = 0; j < n; ++j) {
        if (comm_.rank() == owner) {
          ASSERT_EQ(own[0].cross(i, j), expected(i, j));
        }
        const Range own_rows = rows[static_cast<std::size_t>(comm_.rank())];
        if (own_rows.first <= i && i < own_rows.last) {
          ASSERT_EQ(some(i - own_rows.first, j), expected(i, j));
        }
      }
    }
    EXPECT_EQ(own[0].cross.empty(), comm_.rank() != owner);
    if (comm_.rank() != owner) continue;
    double energy = 0;
    for (const float value : all_e.span()) energy += double{value} * value;
    EXPECT_NEAR(own[0].energy, energy / static_cast<double>(tokens), 1e-4 * own[0].energy);
  }
}

TEST_F(OwnedHessianMpi, AValueThatIsNotFiniteIsNamedOnEveryRank) {
  std::vector<Matrix<float>> rows;
  rows.push_back(rows_of(0, 30));
  rows.push_back(rows_of(1, 30));
  if (comm_.rank() == comm_.size() - 1) rows[1](0, 3) = std::numeric_limits<float>::infinity();
  const std::vector<OwnedInput> inputs{{rows[0].cview(), 0, "one"}, {rows[1].cview(), 0, "two"}};
  try {
    static_cast<void>(owned_hessians(comm_, *backend_, inputs));
    FAIL() << "an infinity went through";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("layer two"), std::string::npos) << text;
    EXPECT_NE(text.find("channel 3"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace quip::owned_hessian_mpi_test
