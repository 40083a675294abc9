// The factorisation by ScaLAPACK.
#include <array>
#include <limits>

#include "scalapack_functions.hpp"

#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/linalg/distributed_ldl.hpp"

namespace quip {
namespace {

/// The BLACS context of a grid; the ranks of `comm` are exactly those of the grid.
class BlacsGrid {
 public:
  BlacsGrid(MPI_Comm comm, const GridShape& shape, int rank)
      : handle_(Csys2blacs_handle(comm)), context_(handle_) {
    Cblacs_gridinit(&context_, "Row", shape.rows, shape.cols);
    std::array<int, 4> seen{};
    Cblacs_gridinfo(context_, &seen[0], &seen[1], &seen[2], &seen[3]);
    if (seen != std::array{shape.rows, shape.cols, shape.row_of(rank), shape.col_of(rank)}) {
      fail("the BLACS put rank {} at ({}, {}) of a {}x{} grid instead of ({}, {}) of {}", rank,
           seen[2], seen[3], seen[0], seen[1], shape.row_of(rank), shape.col_of(rank),
           to_string(shape));
    }
  }
  ~BlacsGrid() {
    if (context_ >= 0) Cblacs_gridexit(context_);
    Cfree_blacs_system_handle(handle_);
  }
  BlacsGrid(const BlacsGrid&) = delete;
  BlacsGrid& operator=(const BlacsGrid&) = delete;

  [[nodiscard]] int context() const { return context_; }

 private:
  int handle_;
  int context_;
};

int as_fortran(index_t value) { return static_cast<int>(value); }

/// Calls pdpotrf on the ranks of the grid; returns its info.
int factor_in_grid(const BlacsGrid& grid, DistributedMatrix& h) {
  const int n = as_fortran(h.layout().n());
  const int block = as_fortran(h.layout().rows.block);
  const int ld = as_fortran(h.ld());
  const int context = grid.context();
  const int zero = 0;
  const int one = 1;
  std::array<int, 9> descriptor{};
  int info = 0;
  descinit_(descriptor.data(), &n, &n, &block, &block, &zero, &zero, &context, &ld, &info);
  if (info != 0) fail("ScaLAPACK refuses argument {} of descinit", -info);
  pdpotrf_("L", &n, h.data(), &one, &one, descriptor.data(), &info);
  if (info < 0) fail("ScaLAPACK refuses argument {} of pdpotrf", -info);
  return info;
}

}  // namespace

index_t scalapack_cholesky(Collectives& comm, DistributedMatrix& h) {
  agree(comm, [&] {
    if (h.local_size() > std::numeric_limits<int>::max()) {
      fail("--process-grid {}: a rank's {} elements exceed ScaLAPACK's integers; use a larger grid",
           to_string(h.layout().grid), h.local_size());
    }
  });
  const Communicator members = Communicator::split(communicator_of(comm), h.in_grid() ? 0 : 1);
  float info = 0;
  agree(comm, [&] {
    if (!h.in_grid()) return;
    const BlacsGrid grid(members.get(), h.layout().grid, comm.rank());
    info = static_cast<float>(factor_in_grid(grid, h));
  });
  comm.all_reduce_max(std::span(&info, 1));
  return static_cast<index_t>(info);
}

}  // namespace quip
