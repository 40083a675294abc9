#include "quip/comm/mpi.hpp"

#include <array>
#include <utility>

#include "quip/core/error.hpp"

namespace quip {

std::string mpi_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return text.data();
}

void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  fail("{} failed: {} ({}:{})", call, mpi_text(code), file, line);
}

MpiEnvironment::MpiEnvironment(int* argc, char*** argv) {
  int provided = 0;
  QUIP_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  QUIP_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
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

Communicator Communicator::split(MPI_Comm parent, int color) {
  MPI_Comm comm = MPI_COMM_NULL;
  QUIP_MPI(MPI_Comm_split(parent, color, 0, &comm));
  return Communicator(comm);
}

int Communicator::rank() const {
  int rank = 0;
  QUIP_MPI(MPI_Comm_rank(comm_, &rank));
  return rank;
}

int Communicator::size() const {
  int size = 0;
  QUIP_MPI(MPI_Comm_size(comm_, &size));
  return size;
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

}  // namespace quip
