// MPI: start-up, communicators, errors.
#pragma once

#include <string>

#include <mpi.h>

namespace quip {

/// Returns MPI's own text for an error code.
[[nodiscard]] std::string mpi_text(int code);

/// Throws Error carrying the call, MPI's own text and the place, unless `code` is success.
void check_mpi(int code, const char* call, const char* file, int line);
#define QUIP_MPI(call) ::quip::check_mpi((call), #call, __FILE__, __LINE__)

/// Runs MPI_Init and MPI_Finalize. One per process, in main. MPI's errors are returned from then
/// on, in every communicator, instead of ending the process with a report of MPI's own.
class MpiEnvironment {
 public:
  MpiEnvironment(int* argc, char*** argv);
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;
};

/// A communicator that frees itself.
class Communicator {
 public:
  static Communicator duplicate(MPI_Comm parent);
  /// Makes the group of the ranks of `parent` that share this node's memory.
  static Communicator node_of(MPI_Comm parent);
  /// Makes the group of the ranks of `parent` with the same `color`, in their order.
  static Communicator split(MPI_Comm parent, int color);

  Communicator() = default;
  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] MPI_Comm get() const noexcept { return comm_; }
  [[nodiscard]] int rank() const;
  [[nodiscard]] int size() const;

 private:
  explicit Communicator(MPI_Comm comm) : comm_(comm) {}
  MPI_Comm comm_ = MPI_COMM_NULL;
};

}  // namespace quip
