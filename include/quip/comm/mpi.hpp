// MPI: start-up, RAII and the Collectives over a communicator.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <mpi.h>

#include "quip/comm/collectives.hpp"

namespace quip {

/// Throws Error carrying the call, MPI's own text and the place, unless `code` is success.
void check_mpi(int code, const char* call, const char* file, int line);
#define QUIP_MPI(call) ::quip::check_mpi((call), #call, __FILE__, __LINE__)

/// MPI_Init … MPI_Finalize. Exactly one per process, in main.
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
  /// The ranks of `parent` that share this node's memory.
  static Communicator node_of(MPI_Comm parent);

  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] MPI_Comm get() const noexcept { return comm_; }

 private:
  explicit Communicator(MPI_Comm comm) : comm_(comm) {}
  MPI_Comm comm_ = MPI_COMM_NULL;
};

class MpiCollectives final : public Collectives {
 public:
  /// Works on a duplicate of `parent`, with errors returned instead of fatal.
  explicit MpiCollectives(MPI_Comm parent = MPI_COMM_WORLD);

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }
  /// Ranks of this group on this node.
  [[nodiscard]] int node_size() const noexcept { return node_size_; }
  void barrier() override;
  void all_reduce_sum(std::span<double> values) override;
  void all_reduce_max(std::span<float> values) override;
  void broadcast_bytes(std::span<std::byte> bytes, int root) override;
  void all_gather_bytes(std::span<std::byte> buffer, std::span<const index_t> offsets) override;
  [[nodiscard]] std::int64_t bytes_sent() const noexcept override { return bytes_sent_; }

  /// Ends every rank of the job at once, for failures the others cannot know of.
  [[noreturn]] void abort(int code) const;

 private:
  Communicator comm_;
  int rank_ = 0;
  int size_ = 1;
  int node_size_ = 1;
  std::int64_t bytes_sent_ = 0;
};

}  // namespace quip
