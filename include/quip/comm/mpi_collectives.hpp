// The Collectives over an MPI communicator.
#pragma once

#include <memory>

#include "quip/comm/collectives.hpp"
#include "quip/comm/mpi.hpp"
#include "quip/comm/stall_watch.hpp"

namespace quip {

/// Every operation is started without blocking and then polled, so that a rank which waits can
/// notice that nothing moves any more, and say whom it waits for (StallWatch).
class MpiCollectives final : public Collectives {
 public:
  /// Works on a duplicate of `parent`.
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

  /// The same on all ranks: the job ends with exit_stalled when a collective makes no progress for
  /// so many seconds; 0: never.
  void set_stall_timeout(double seconds);
  /// See StallWatch.
  [[nodiscard]] bool speaks_for_failure();

 private:
  template <typename Start>
  void complete(const char* collective, const Start& start);
  void sum_directly(std::span<double> values);
  void sum_by_shares(std::span<double> values, double* parts);
  void broadcast_pieces(std::span<std::byte> bytes, int root);
  void broadcast_by_shares(std::byte* data, int count, int root);
  void gather_shares(const char* collective, MPI_Datatype type, void* data,
                     const std::vector<int>& counts, const std::vector<int>& offsets);

  Communicator comm_;
  int rank_ = 0;
  int size_ = 1;
  int node_size_ = 1;
  std::unique_ptr<StallWatch> watch_;  ///< none for one rank, which waits for nobody
};

}  // namespace quip
