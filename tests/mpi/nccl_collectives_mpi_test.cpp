// Collectives between GPUs, one for each rank; without GPUs over a stand-in for NCCL.
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "backend/cuda/copies.hpp"
#include "backend/cuda/nccl_collectives.hpp"
#include "plan/measure_machine.hpp"
#include "support/rank_devices.hpp"
#include <gtest/gtest.h>

#include "quip/calib/hessian.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#ifdef QUIP_CUDA_ON_HOST
#include <nccl.h>
#endif

namespace quip::cuda::nccl_collectives_mpi_test {
namespace {

class NcclMpiTest : public testing::Test {
 protected:
  void SetUp() override {
    context_ = test::own_device(host_);
    if (!context_) GTEST_SKIP() << "fewer GPUs than ranks on this machine";
    if (host_.size() == 1) GTEST_SKIP() << "one rank has nobody to talk to";
    comm_ = make_nccl_collectives(*context_, host_, 0.2);
    if (!comm_) GTEST_SKIP() << "a build without NCCL";
  }

  [[nodiscard]] std::vector<double> numbers(index_t count) const {
    std::vector<double> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), 1000.0 * comm_->rank());
    return values;
  }
  /// Σ over ranks of numbers(…)[i].
  [[nodiscard]] double expected(std::size_t i) const {
    const int size = comm_->size();
    return 500.0 * size * (size - 1) + static_cast<double>(i) * size;
  }

  MpiCollectives host_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<Collectives> comm_;
};

TEST_F(NcclMpiTest, SumsOnTheDevice) {
  auto values = numbers(1001);
  const auto device = to_device(*context_, std::span<const double>(values), "values");
  comm_->all_reduce_sum({device.data(), values.size()});
  download<double>(context_->lane(), device.data(), values);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], expected(i));
}

TEST_F(NcclMpiTest, SumsOfHostMemorySmallAndThroughTheDevices) {
  for (const index_t count : {7, 600'000}) {
    auto values = numbers(count);
    comm_->all_reduce_sum(values);
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], expected(i));
  }
}

TEST_F(NcclMpiTest, MaximaOnTheDevice) {
  std::vector<float> values{static_cast<float>(comm_->rank()), -1.0F};
  const auto device = to_device(*context_, std::span<const float>(values), "values");
  comm_->all_reduce_max({device.data(), 2});
  download<float>(context_->lane(), device.data(), values);
  EXPECT_EQ(values, (std::vector<float>{static_cast<float>(comm_->size() - 1), -1.0F}));
}

TEST_F(NcclMpiTest, BroadcastsFromEveryRank) {
  for (int root = 0; root < comm_->size(); ++root) {
    for (const std::size_t count : {std::size_t{5}, std::size_t{5'000'000}}) {
      std::vector<std::byte> bytes(count, static_cast<std::byte>(comm_->rank()));
      comm_->broadcast_bytes(bytes, root);  // of host memory
      ASSERT_EQ(bytes, std::vector<std::byte>(count, static_cast<std::byte>(root)));
    }
    std::vector<std::byte> few(9, static_cast<std::byte>(comm_->rank()));
    const auto device = to_device(*context_, std::span<const std::byte>(few), "bytes");
    comm_->broadcast_bytes({device.data(), few.size()}, root);
    download<std::byte>(context_->lane(), device.data(), few);
    EXPECT_EQ(few, std::vector<std::byte>(9, static_cast<std::byte>(root)));
  }
}

TEST_F(NcclMpiTest, GathersUnevenSharesOnTheDevice) {
  const auto offsets = share_offsets(101, comm_->size(), 3);
  std::vector<std::byte> bytes(303, std::byte{255});
  const auto mine = static_cast<std::size_t>(comm_->rank());
  for (index_t i = offsets[mine]; i < offsets[mine + 1]; ++i) {
    bytes[static_cast<std::size_t>(i)] = static_cast<std::byte>(i % 251);
  }
  const auto device = to_device(*context_, std::span<const std::byte>(bytes), "bytes");
  comm_->all_gather_bytes({device.data(), bytes.size()}, offsets);
  download<std::byte>(context_->lane(), device.data(), bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    ASSERT_EQ(bytes[i], static_cast<std::byte>(i % 251));
}

#ifdef QUIP_CUDA_ON_HOST
/// H of `n` channels over each rank's four tokens.
Matrix<double> hessian_of(Collectives& comm, Backend& backend, index_t n, int rank) {
  std::vector<float> values(static_cast<std::size_t>(4 * n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((static_cast<int>(i) * 37 + rank * 11) % 101 - 50);
  }
  Tensor x = backend.allocate(4, n);
  backend.upload(values, x.view());
  return exact_hessian(comm, backend, x.cview(), 0, 4, "test");
}

// From 1024 channels on the lower triangle in fp64 takes 4 MiB and more.
TEST_F(NcclMpiTest, LargeHessiansAreSummedBetweenDevicesAndSmallOnesOverMpi) {
  const auto backend = make_backend("cpu", 1);
  for (const auto& [n, carried] : {std::pair<index_t, index_t>{1023, 0}, {1024, 1024 * 1025 / 2}}) {
    const std::size_t before = cuda_on_host::nccl_bytes();
    const Matrix<double> h = hessian_of(*comm_, *backend, n, comm_->rank());
    EXPECT_EQ(cuda_on_host::nccl_bytes() - before, static_cast<std::size_t>(carried) * 8) << n;
    const Matrix<double> over_mpi = hessian_of(host_, *backend, n, comm_->rank());
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j <= i; ++j) ASSERT_EQ(h(i, j), over_mpi(i, j)) << i << ' ' << j;
    }
  }
}

// A sum and a broadcast of the triangle, each once; what gathers and votes send stays with MPI.
TEST_F(NcclMpiTest, ACalibrationTakesTheWayOfTheRun) {
  for (const auto& [n, carried] : {std::pair<index_t, index_t>{1023, 0}, {1024, 1024 * 1025}}) {
    const std::size_t before = cuda_on_host::nccl_bytes();
    plan::Rates rates;
    plan::measure_links(*comm_, n, rates, 0);
    EXPECT_EQ(cuda_on_host::nccl_bytes() - before, static_cast<std::size_t>(carried) * 8) << n;
    for (const plan::Exchange kind : plan::all_exchanges) {
      EXPECT_GT(rates.links.at(to_string(kind)).bandwidth, 0);
    }
  }
}

TEST_F(NcclMpiTest, RanksThatShareAGpuStayWithMpi) {
  cuda_on_host::set_devices(1);
  EXPECT_EQ(make_nccl_collectives(*context_, host_, 0.0), nullptr);
}

TEST_F(NcclMpiTest, AStallIsAbortedAndSaid) {
  const auto device = context_->buffer<double>(4, "values");
  const int aborts = cuda_on_host::nccl_aborts();
  cuda_on_host::set_stalled(true);
  try {
    comm_->all_reduce_sum({device.data(), 4});
    ADD_FAILURE() << "no exception";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("all-reduce failed: no progress for 0.2 s"),
              std::string::npos)
        << error.what();
  }
  cuda_on_host::set_stalled(false);
  EXPECT_EQ(cuda_on_host::nccl_aborts(), aborts + 1);
  EXPECT_THROW(comm_->all_reduce_sum({device.data(), 4}), Error);  // it is gone
}

TEST_F(NcclMpiTest, AnErrorOfAnotherRankIsAbortedAndSaid) {
  const auto device = context_->buffer<double>(4, "values");
  cuda_on_host::set_nccl_state(ncclSystemError);
  EXPECT_THROW(comm_->all_reduce_sum({device.data(), 4}), Error);
  cuda_on_host::set_nccl_state(ncclSuccess);
}
#endif

}  // namespace
}  // namespace quip::cuda::nccl_collectives_mpi_test
