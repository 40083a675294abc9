#include "quip/comm/mpi.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "quip/core/error.hpp"

namespace quip {
namespace {

// MPI-3 counts are int: larger payloads go in pieces of this many bytes.
constexpr index_t piece_bytes = index_t{1} << 30;

/// Calls `operation(first, count)` for consecutive pieces of `total` elements.
template <typename Operation>
void in_pieces(index_t total, index_t element_bytes, const Operation& operation) {
  const index_t step = piece_bytes / element_bytes;
  for (index_t first = 0; first < total; first += step) {
    operation(first, static_cast<int>(std::min(step, total - first)));
  }
}

}  // namespace

void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail("{} failed: {} ({}:{})", call, text.data(), file, line);
}

MpiEnvironment::MpiEnvironment(int* argc, char*** argv) {
  // Parallel HDF5 is used without collective writes, but a library beneath us might: the
  // default component corrupts data (open-mpi/ompi#12718). The user's own choice wins.
  ::setenv("OMPI_MCA_fcoll", "dynamic_gen2", 0);
  int provided = 0;
  QUIP_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  if (provided < MPI_THREAD_FUNNELED) fail("this MPI library cannot be used by threaded programs");
}

MpiEnvironment::~MpiEnvironment() { MPI_Finalize(); }

Communicator Communicator::duplicate(MPI_Comm parent) {
  MPI_Comm comm = MPI_COMM_NULL;
  QUIP_MPI(MPI_Comm_dup(parent, &comm));
  return Communicator(comm);
}

Communicator Communicator::node_of(MPI_Comm parent) {
  MPI_Comm comm = MPI_COMM_NULL;
  QUIP_MPI(MPI_Comm_split_type(parent, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &comm));
  return Communicator(comm);
}

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(comm_, other.comm_);
  return *this;
}

Communicator::~Communicator() {
  if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

MpiCollectives::MpiCollectives(MPI_Comm parent) : comm_(Communicator::duplicate(parent)) {
  QUIP_MPI(MPI_Comm_set_errhandler(comm_.get(), MPI_ERRORS_RETURN));
  QUIP_MPI(MPI_Comm_rank(comm_.get(), &rank_));
  QUIP_MPI(MPI_Comm_size(comm_.get(), &size_));
  const Communicator node = Communicator::node_of(comm_.get());
  QUIP_MPI(MPI_Comm_size(node.get(), &node_size_));
}

void MpiCollectives::barrier() { QUIP_MPI(MPI_Barrier(comm_.get())); }

void MpiCollectives::all_reduce_sum(std::span<double> values) {
  const auto total = static_cast<index_t>(values.size());
  in_pieces(total, sizeof(double), [&](index_t first, int count) {
    QUIP_MPI(MPI_Allreduce(MPI_IN_PLACE, values.data() + first, count, MPI_DOUBLE, MPI_SUM,
                           comm_.get()));
  });
  // Reduce-scatter and all-gather: each rank sends 2·(P-1)/P of the data.
  bytes_sent_ += 2 * total * static_cast<index_t>(sizeof(double)) * (size_ - 1) / size_;
}

void MpiCollectives::all_reduce_max(std::span<float> values) {
  const auto total = static_cast<index_t>(values.size());
  in_pieces(total, sizeof(float), [&](index_t first, int count) {
    QUIP_MPI(
        MPI_Allreduce(MPI_IN_PLACE, values.data() + first, count, MPI_FLOAT, MPI_MAX, comm_.get()));
  });
  bytes_sent_ += 2 * total * static_cast<index_t>(sizeof(float)) * (size_ - 1) / size_;
}

void MpiCollectives::broadcast_bytes(std::span<std::byte> bytes, int root) {
  const auto total = static_cast<index_t>(bytes.size());
  in_pieces(total, 1, [&](index_t first, int count) {
    QUIP_MPI(MPI_Bcast(bytes.data() + first, count, MPI_BYTE, root, comm_.get()));
  });
  if (rank_ == root) bytes_sent_ += total * (size_ - 1) / size_;
}

void MpiCollectives::all_gather_bytes(std::span<std::byte> buffer,
                                      std::span<const index_t> offsets) {
  if (size_ == 1) return;
  // Counts and displacements are int: what exceeds them is broadcast rank by rank, in pieces.
  const index_t total = offsets[static_cast<std::size_t>(size_)];
  const index_t mine =
      offsets[static_cast<std::size_t>(rank_) + 1] - offsets[static_cast<std::size_t>(rank_)];
  if (total <= piece_bytes) {
    std::vector<int> counts;
    std::vector<int> displacements;
    for (std::size_t r = 0; r < static_cast<std::size_t>(size_); ++r) {
      counts.push_back(static_cast<int>(offsets[r + 1] - offsets[r]));
      displacements.push_back(static_cast<int>(offsets[r]));
    }
    QUIP_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffer.data(), counts.data(),
                            displacements.data(), MPI_BYTE, comm_.get()));
  } else {
    for (int r = 0; r < size_; ++r) {
      const index_t first = offsets[static_cast<std::size_t>(r)];
      const index_t count = offsets[static_cast<std::size_t>(r) + 1] - first;
      in_pieces(count, 1, [&](index_t at, int n) {
        QUIP_MPI(MPI_Bcast(buffer.data() + first + at, n, MPI_BYTE, r, comm_.get()));
      });
    }
  }
  bytes_sent_ += mine * (size_ - 1);
}

void MpiCollectives::abort(int code) const {
  MPI_Abort(comm_.get(), code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace quip
