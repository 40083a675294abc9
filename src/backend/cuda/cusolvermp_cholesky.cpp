// cuSOLVERMp takes a DistributedMatrix as it is: block-cyclic from rank (0, 0) on, column-major,
// the lower triangle; global indices count from 1, as in ScaLAPACK.
#include <algorithm>
#include <cusolverMp.h>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.hpp"
#include "copies.hpp"
#include "grid_cholesky.hpp"
#include "nccl_communicator.hpp"
#include <spdlog/spdlog.h>

#include "quip/comm/job.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

struct Release {
  void operator()(cusolverMpHandle_t handle) const noexcept {
    static_cast<void>(cusolverMpDestroy(handle));
  }
  void operator()(cusolverMpGrid_t grid) const noexcept {
    static_cast<void>(cusolverMpDestroyGrid(grid));
  }
  void operator()(cusolverMpMatrixDescriptor_t descriptor) const noexcept {
    static_cast<void>(cusolverMpDestroyMatrixDesc(descriptor));
  }
};
template <typename Pointer>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Release>;

/// The GPUs of the first ranks, and the library's view of them. Its calls of NCCL must be blocking:
/// it has no notion of one that is still under way.
class DeviceGrid {
 public:
  /// Makes the grid (collective); ranks beyond it take part, and hold nothing.
  DeviceGrid(Context& context, Collectives& comm, const GridShape& shape)
      : shape_(shape),
        nccl_(comm, shape.size(), NcclCommunicator::Calls::blocking, comm.stall_timeout()) {
    if (comm.rank() >= shape.size()) return;
    cusolverMpHandle_t handle = nullptr;
    QUIP_CUDA(cusolverMpCreate(&handle, context.device().number(), context.lane().get()));
    handle_.reset(handle);
    cusolverMpGrid_t grid = nullptr;
    QUIP_CUDA(cusolverMpCreateDeviceGrid(handle, &grid, nccl_.get(), shape.rows, shape.cols,
                                         CUSOLVERMP_GRID_MAPPING_ROW_MAJOR));
    grid_.reset(grid);
  }

  [[nodiscard]] const GridShape& shape() const { return shape_; }
  [[nodiscard]] cusolverMpHandle_t handle() const { return handle_.get(); }
  [[nodiscard]] cusolverMpGrid_t get() const { return grid_.get(); }
  [[nodiscard]] NcclCommunicator& nccl() { return nccl_; }

 private:
  GridShape shape_;
  NcclCommunicator nccl_;
  Owned<cusolverMpHandle_t> handle_;
  Owned<cusolverMpGrid_t> grid_;
};

/// This rank's blocks on its device, and the memory for their factorisation.
class LocalBlocks {
 public:
  LocalBlocks(Context& context, DeviceGrid& grid, const DistributedMatrix& h)
      : context_(context),
        grid_(grid),
        n_(h.layout().n()),
        a_(context.buffer<double>(std::max<index_t>(h.local_size(), 1), "blocks of a Hessian")) {
    const index_t block = h.layout().rows.block;
    cusolverMpMatrixDescriptor_t descriptor = nullptr;
    QUIP_CUDA(cusolverMpCreateMatrixDesc(&descriptor, grid.get(), CUDA_R_64F, n_, n_, block, block,
                                         0, 0, h.ld()));
    descriptor_.reset(descriptor);
    QUIP_CUDA(cusolverMpPotrf_bufferSize(grid.handle(), CUBLAS_FILL_MODE_LOWER, n_, a_.data(), 1, 1,
                                         descriptor, CUDA_R_64F, &device_bytes_, &host_bytes_));
  }

  /// Returns the bytes needed besides the blocks.
  [[nodiscard]] std::size_t workspace() const { return device_bytes_; }

  /// Factorises the blocks; returns the library's info.
  int factor(DistributedMatrix& h) {
    Lane& lane = context_.lane();
    upload<double>(lane, std::span<const double>(local(h)), a_.data());
    const auto workspace = context_.buffer<std::byte>(static_cast<index_t>(device_bytes_),
                                                      "the workspace of cuSOLVERMp");
    std::vector<std::byte> host_workspace(host_bytes_);
    const auto info = context_.buffer<int>(1, "the outcome of cuSOLVERMp");
    QUIP_CUDA(cudaMemsetAsync(info.data(), 0, sizeof(int), lane.get()));
    run([&] {
      QUIP_CUDA(cusolverMpPotrf(grid_.handle(), CUBLAS_FILL_MODE_LOWER, n_, a_.data(), 1, 1,
                                descriptor_.get(), CUDA_R_64F, workspace.data(), device_bytes_,
                                host_workspace.data(), host_bytes_, info.data()));
    });
    int outcome = 0;
    download<int>(lane, info.data(), std::span(&outcome, 1));
    if (outcome < 0) {
      fail("GPU: cusolverMpPotrf refuses its argument {}; leave out --process-grid", -outcome);
    }
    return outcome;
  }
  void store(DistributedMatrix& h) { download<double>(context_.lane(), a_.data(), local(h)); }

 private:
  /// Ends the job on an error: the kernels of the library's own communicators never leave the
  /// device, and every other way out waits for it.
  template <typename Call>
  void run(const Call& call) {
    try {
      grid_.nccl().run("the factorisation by cuSOLVERMp", context_.lane().stream,
                       [&](ncclComm_t /*comm*/) {
                         call();
                         return ncclSuccess;
                       });
    } catch (const Error& error) {
      report_error(error.what());
      abort_job(exit_failure);
    }
  }
  static std::span<double> local(DistributedMatrix& h) { return {h.data(), at(h.local_size())}; }

  Context& context_;
  DeviceGrid& grid_;
  index_t n_;
  DeviceBuffer<double> a_;
  Owned<cusolverMpMatrixDescriptor_t> descriptor_;
  std::size_t device_bytes_ = 0;
  std::size_t host_bytes_ = 0;
};

class CusolverMpCholesky final : public GridCholesky {
 public:
  explicit CusolverMpCholesky(Context& context) : context_(context) {}

  [[nodiscard]] std::optional<index_t> factor(Collectives& comm, DistributedMatrix& h) override;

 private:
  [[nodiscard]] bool all_have(Collectives& comm, std::size_t bytes);
  std::nullopt_t decline(const Collectives& comm, const GridShape& shape, const char* why);

  Context& context_;
  std::optional<bool> shared_;
  std::unique_ptr<DeviceGrid> grid_;
  bool told_ = false;
};

/// True if every rank has the room that it asks for.
bool CusolverMpCholesky::all_have(Collectives& comm, std::size_t bytes) {
  float lacking = bytes > context_.device().available() ? 1 : 0;
  comm.all_reduce_max(std::span(&lacking, 1));
  return lacking == 0;
}

std::nullopt_t CusolverMpCholesky::decline(const Collectives& comm, const GridShape& shape,
                                           const char* why) {
  if (comm.rank() == 0 && !std::exchange(told_, true)) {
    spdlog::warn("--process-grid {}: {}; ScaLAPACK factorises wide layers on the host, slower",
                 to_string(shape), why);
  }
  return std::nullopt;
}

// Every rank takes the same branches here: they depend on agreed values alone.
std::optional<index_t> CusolverMpCholesky::factor(Collectives& comm, DistributedMatrix& h) {
  const GridShape& shape = h.layout().grid;
  if (!shared_) shared_ = ranks_share_gpus(comm);
  if (*shared_) return decline(comm, shape, "ranks share GPUs, which NCCL refuses");
  const auto no_room = [&] {
    return decline(comm, shape, "a GPU has no room for its part (fewer --samples leave more)");
  };
  if (!all_have(comm, at(h.local_size()) * sizeof(double))) return no_room();
  if (!grid_ || grid_->shape() != shape) {
    grid_.reset();
    grid_ = std::make_unique<DeviceGrid>(context_, comm, shape);
  }
  std::optional<LocalBlocks> blocks;
  if (h.in_grid()) blocks.emplace(context_, *grid_, h);
  if (!all_have(comm, blocks ? blocks->workspace() : 0)) return no_room();
  float info = blocks ? static_cast<float>(blocks->factor(h)) : 0.0F;
  comm.all_reduce_max(std::span(&info, 1));
  if (blocks && info == 0) blocks->store(h);
  return static_cast<index_t>(info);
}

}  // namespace

std::unique_ptr<GridCholesky> make_grid_cholesky(Context& context) {
  return std::make_unique<CusolverMpCholesky>(context);
}

}  // namespace quip::cuda
