// The factorisation of a matrix that no rank holds: against H itself, on every grid.
#include <vector>

#include "support/distributed_matrices.hpp"
#include <gtest/gtest.h>

#include "quip/comm/mpi_collectives.hpp"

namespace quip::distributed_ldl_mpi_test {
namespace {

using namespace test;

class DistributedLdlMpi : public testing::Test {
 protected:
  DistributedLdlMpi() { use_one_blas_thread(); }

  MpiCollectives comm_;
};

TEST_F(DistributedLdlMpi, LeavesNoResidualOnAnyGrid) {
  for (const index_t n : {1, 100, 512, 700}) {
    const TestMatrix matrix(n);
    for (const GridShape& grid : grids(comm_.size())) {
      for (const auto how : {block_cholesky, scalapack_cholesky}) {
        const Factors factors = factorise(comm_, matrix, grid, how);
        EXPECT_LE(residual(matrix, factors), 1e-12) << n << " on " << to_string(grid);
      }
    }
  }
}

TEST_F(DistributedLdlMpi, BlocksGiveTheSameBitsOnAnyGrid) {
  const TestMatrix matrix(700);
  SelfCollectives self;
  const Factors alone = factorise(self, matrix, {1, 1}, block_cholesky);
  for (const GridShape& grid : grids(comm_.size())) {
    const Factors factors = factorise(comm_, matrix, grid, block_cholesky);
    EXPECT_EQ(factors.d, alone.d) << to_string(grid);
    for (index_t i = 0; i < alone.lower.size(); ++i) {
      ASSERT_EQ(factors.lower.data()[i], alone.lower.data()[i]) << to_string(grid) << ' ' << i;
    }
  }
}

TEST_F(DistributedLdlMpi, AllRanksKnowTheLeadingMinorThatFails) {
  for (const GridShape& grid : grids(comm_.size())) {
    for (const auto how : {block_cholesky, scalapack_cholesky}) {
      DistributedMatrix h = indefinite(grid, comm_.rank());
      std::vector<double> d(400);
      EXPECT_EQ(distributed_ldl(comm_, h, how, d), 201) << to_string(grid);
    }
  }
}

TEST_F(DistributedLdlMpi, DiagonalsComeAndGo) {
  const TestMatrix matrix(300);
  for (const GridShape& grid : grids(comm_.size())) {
    DistributedMatrix h = matrix.over(grid, comm_.rank());
    std::vector<double> values = h.diagonal(comm_);
    for (index_t i = 0; i < 300; ++i) {
      ASSERT_EQ(values[static_cast<std::size_t>(i)], matrix(i, i));
      values[static_cast<std::size_t>(i)] = static_cast<double>(i);
    }
    h.set_diagonal(values);
    EXPECT_EQ(h.diagonal(comm_), values);
  }
}

}  // namespace
}  // namespace quip::distributed_ldl_mpi_test
