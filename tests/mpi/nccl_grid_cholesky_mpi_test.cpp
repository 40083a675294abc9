// The factorisation over the GPUs of a grid of ranks; without GPUs by a stand-in for cuSOLVERMp.
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cuda/grid_cholesky.hpp"
#include "backend/cuda/nccl_collectives.hpp"
#include "support/distributed_matrices.hpp"
#include "support/rank_devices.hpp"
#include <gtest/gtest.h>

#include "quip/comm/mpi_collectives.hpp"

namespace quip::cuda::nccl_grid_cholesky_mpi_test {
namespace {

using namespace test;

class GridCholeskyMpi : public testing::Test {
 protected:
  void SetUp() override {
    context_ = own_device(comm_);
    if (!context_) GTEST_SKIP() << "fewer GPUs than ranks on this machine";
    devices_ = make_grid_cholesky(*context_);
    if (!devices_) GTEST_SKIP() << "a build without cuSOLVERMp";
  }

  /// As a step of distributed_ldl; -1 if the devices decline.
  [[nodiscard]] DistributedCholesky step() {
    return [this](Collectives& comm, DistributedMatrix& h) {
      return devices_->factor(comm, h).value_or(-1);
    };
  }

  MpiCollectives comm_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<GridCholesky> devices_;
};

TEST_F(GridCholeskyMpi, LeavesNoResidualOnAnyGrid) {
  for (const index_t n : {1, 100, 512, 700}) {
    const TestMatrix matrix(n);
    for (const GridShape& grid : grids(comm_.size())) {
      const Factors factors = factorise(comm_, matrix, grid, step());
      EXPECT_LE(residual(matrix, factors), 1e-12) << n << " on " << to_string(grid);
    }
  }
}

TEST_F(GridCholeskyMpi, AllRanksKnowTheLeadingMinorThatFails) {
  for (const GridShape& grid : grids(comm_.size())) {
    DistributedMatrix h = indefinite(grid, comm_.rank());
    std::vector<double> d(400);
    EXPECT_EQ(distributed_ldl(comm_, h, step(), d), 201) << to_string(grid);
  }
}

/// Over the collectives that a job with GPUs runs on.
TEST_F(GridCholeskyMpi, WorksBesideTheCollectivesBetweenGpus) {
  const auto nccl = make_nccl_collectives(*context_, comm_, 0.0);
  if (!nccl) GTEST_SKIP() << "one rank";
  const TestMatrix matrix(300);
  const GridShape grid{comm_.size() / 2, 1};
  for (const DistributedCholesky& how : {step(), DistributedCholesky(scalapack_cholesky)}) {
    EXPECT_LE(residual(matrix, factorise(*nccl, matrix, grid, how)), 1e-12);
  }
}

#ifdef QUIP_CUDA_ON_HOST
/// A device on which so many bytes are available: a sixteenth of it is kept for the libraries.
class AlmostFullDevice {
 public:
  explicit AlmostFullDevice(std::size_t available) {
    cuda_on_host::set_memory((cuda_on_host::memory_in_use() + available) * 16 / 15);
  }
  ~AlmostFullDevice() { cuda_on_host::set_memory(std::size_t{8} << 30); }
  AlmostFullDevice(const AlmostFullDevice&) = delete;
  AlmostFullDevice& operator=(const AlmostFullDevice&) = delete;
};

TEST_F(GridCholeskyMpi, DeclinesOnAllRanksWhereOneHasNoRoom) {
  const TestMatrix matrix(512);
  const std::size_t workspace = 128 * 128 * sizeof(double);
  for (const GridShape& grid : grids(comm_.size())) {
    DistributedMatrix h = matrix.over(grid, comm_.rank());
    const std::vector<double> before(h.data(), h.data() + h.local_size());
    const auto part = static_cast<std::size_t>(h.local_size()) * sizeof(double);
    for (const std::size_t room : {part - 8, part + workspace - 8}) {
      const std::size_t idle = cuda_on_host::memory_in_use();
      std::optional<AlmostFullDevice> device;
      if (comm_.rank() == grid.size() - 1) device.emplace(room);
      EXPECT_EQ(devices_->factor(comm_, h), std::nullopt) << to_string(grid) << ' ' << room;
      EXPECT_EQ(cuda_on_host::memory_in_use(), idle);
    }
    EXPECT_EQ(std::memcmp(before.data(), h.data(), before.size() * sizeof(double)), 0);
    EXPECT_EQ(devices_->factor(comm_, h), 0) << "with room again";
  }
}

TEST_F(GridCholeskyMpi, DeclinesWhereRanksShareAGpu) {
  if (comm_.place().machine_size == 1) GTEST_SKIP() << "one rank shares with nobody";
  cuda_on_host::set_devices(1);
  DistributedMatrix h = TestMatrix(300).over({1, 1}, comm_.rank());
  EXPECT_EQ(devices_->factor(comm_, h), std::nullopt);
}
#endif

}  // namespace
}  // namespace quip::cuda::nccl_grid_cholesky_mpi_test
