// A layer and a Hessian over any number of ranks: the bits of one rank.
#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/calib/hessian.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/rng.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip::round_layer_mpi_test {
namespace {

Matrix<float> random_matrix(index_t rows, index_t cols, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<float> x(rows, cols);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

/// H of this rank's share of 60 samples of 8 tokens, over `comm`.
Matrix<double> hessian_over(Collectives& comm, Backend& backend, const Matrix<float>& x) {
  constexpr index_t length = 8;
  const Range samples = share_of(x.rows() / length, comm.rank(), comm.size());
  const index_t tokens = samples.count() * length;
  Tensor mine = backend.allocate(tokens, x.cols());
  backend.upload({x.row(samples.first * length), static_cast<std::size_t>(tokens * x.cols())},
                 mine.view());
  return exact_hessian(comm, backend, mine.cview(), samples.first, length, "test");
}

TEST(ExactHessianMpi, HasTheBitsOfOneRank) {
  MpiCollectives comm;
  SelfCollectives self;
  const auto backend = make_backend("cpu", 1);
  const Matrix<float> x = random_matrix(480, 70, 1);
  const Matrix<double> together = hessian_over(comm, *backend, x);
  const Matrix<double> alone = hessian_over(self, *backend, x);
  double error = 0;
  double norm = 0;
  for (index_t i = 0; i < 70; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      ASSERT_EQ(together(i, j), alone(i, j));
      double sum = 0;
      for (index_t t = 0; t < 480; ++t) sum += static_cast<double>(x(t, i)) * x(t, j) / 480;
      error += (sum - alone(i, j)) * (sum - alone(i, j));
      norm += sum * sum;
    }
  }
  EXPECT_LE(std::sqrt(error / norm), 1e-4);  // the loss of 16-bit integers
}

TEST(RoundLayerMpi, HasTheBitsAndStatisticsOfOneRank) {
  MpiCollectives comm;
  SelfCollectives self;
  const auto backend = make_backend("cpu", 1);
  const Matrix<float> w = random_matrix(150, 96, 2);
  const Matrix<float> x = random_matrix(480, 96, 3);
  const int owner = comm.size() - 1;
  std::vector<LayerOptions> cases;
  for (const Processing processing : {Processing::incoherence, Processing::baseline}) {
    for (const Method method : {Method::nearest, Method::ldlq, Method::optq, Method::ldlq_rg,
                                Method::greedy, Method::ldl_admm}) {
      LayerOptions options = scalar_options();
      options.processing = processing;
      options.method = method;
      options.seed = 9;
      if (method == Method::ldlq) options.rounding = Rounding::stochastic;
      cases.push_back(options);
    }
  }
  for (const LayerOptions& options : cases) {
    PreparedLayer prepared;
    Matrix<double> h = hessian_over(comm, *backend, x);
    if (comm.rank() == owner) prepared = prepare_layer(w.cview(), std::move(h), options, "test");
    broadcast_prepared(comm, prepared, owner);
    const StoredLayer together = round_layer(comm, "test", w.cview(), prepared, options);

    const PreparedLayer own =
        prepare_layer(w.cview(), hessian_over(self, *backend, x), options, "test");
    const StoredLayer alone = round_layer(self, "test", w.cview(), own, options);
    EXPECT_EQ(digest_of(together.layer), digest_of(alone.layer)) << to_string(options.method);
    EXPECT_EQ(together.statistics.passes, alone.statistics.passes);
    EXPECT_EQ(together.statistics.relative_proxy_loss, alone.statistics.relative_proxy_loss);
    EXPECT_EQ(together.statistics.rho, alone.statistics.rho);
    EXPECT_GT(alone.statistics.relative_proxy_loss, 0.0);
  }
}

TEST(AssignOwners, GivesTheLargestToTheLeastLoaded) {
  // 8³ = 512 against 4·4³ = 256: one rank takes the large one, the other all small ones.
  EXPECT_EQ(assign_owners({4, 4, 8, 4, 4}, 2), (std::vector<int>{1, 1, 0, 1, 1}));
  EXPECT_EQ(assign_owners({4, 4, 8}, 1), (std::vector<int>{0, 0, 0}));
  const std::vector<int> owners = assign_owners({5, 5, 5}, 6);
  EXPECT_EQ(std::set<int>(owners.begin(), owners.end()).size(), 3U);
}

}  // namespace
}  // namespace quip::round_layer_mpi_test
