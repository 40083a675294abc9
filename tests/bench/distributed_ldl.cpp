// mpirun -n P distributed_ldl [n ...]: LDLᵀ of a distributed matrix beside dgemm on all ranks at
// once.
#include "quip/linalg/distributed_ldl.hpp"

#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

#include "gemm_rate.hpp"
#include <fmt/format.h>

#include "quip/comm/mpi_collectives.hpp"

namespace {

using namespace quip;

/// Positive definite, by index: 1/(1 + |i − j|) + 2n on the diagonal.
void fill(DistributedMatrix& h) {
  const BlockCyclic& layout = h.layout();
  for (index_t j = 0; j < layout.blocks(); ++j) {
    for (index_t i = j; i < layout.blocks(); ++i) {
      if (!h.owns(i, j)) continue;
      for (index_t c = 0; c < layout.cols.width(j); ++c) {
        for (index_t r = 0; r < layout.rows.width(i); ++r) {
          const auto apart =
              static_cast<double>(std::abs(i * layout.rows.block + r - j * layout.cols.block - c));
          h.block(i, j)[c * h.ld() + r] = 1.0 / (1.0 + apart);
        }
      }
    }
  }
  const auto n = static_cast<std::size_t>(layout.n());
  h.set_diagonal(std::vector<double>(n, 2.0 * static_cast<double>(n)));
}

/// Seconds of the slowest rank, the best of three.
double seconds(Collectives& comm, DistributedMatrix& h, const DistributedCholesky& cholesky) {
  std::vector<double> d(static_cast<std::size_t>(h.layout().n()));
  auto best = std::numeric_limits<float>::infinity();
  for (int repeat = 0; repeat < 3; ++repeat) {
    fill(h);
    comm.barrier();
    auto slowest = static_cast<float>(
        best_seconds(1, [&] { static_cast<void>(distributed_ldl(comm, h, cholesky, d)); }));
    comm.all_reduce_max(std::span(&slowest, 1));
    best = std::min(best, slowest);
  }
  return best;
}

void measure(Collectives& comm, Backend& backend, index_t n) {
  const BlockCyclic layout(n, 128, choose_grid_shape(comm.size(), (n + 127) / 128));
  DistributedMatrix h(layout, comm.rank());
  const double flops = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / 3;
  comm.barrier();
  std::vector<double> rate{gemm_rate<double>(backend, 1)};
  comm.all_reduce_sum(rate);
  const std::array<std::pair<const char*, DistributedCholesky>, 2> both{
      {{"blocks", block_cholesky}, {"scalapack", scalapack_cholesky}}};
  for (const auto& [name, cholesky] : both) {
    const double time = seconds(comm, h, cholesky);
    if (comm.rank() != 0) continue;
    fmt::print("n = {}, grid {}, {:9}: {:.2f} s, {:.1f} GFLOP/s, {:.2f} of dgemm ({:.1f})\n", n,
               to_string(layout.grid), name, time, flops / time / 1e9, flops / time / rate[0],
               rate[0] / 1e9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  restart_with_fitting_blas_kernels(argv);  // as the program does
  const MpiEnvironment environment(&argc, &argv);
  MpiCollectives comm;
  const auto backend = make_cpu_backend(1);
  std::vector<index_t> orders;
  for (int i = 1; i < argc; ++i) orders.push_back(std::atoll(argv[i]));
  if (orders.empty()) orders = {2048, 4096, 8192};
  for (const index_t n : orders) measure(comm, *backend, n);
  return 0;
}
