// The Collectives over an MPI communicator.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quip/comm/collectives.hpp"
#include "quip/comm/mpi.hpp"
#include "quip/comm/stall_watch.hpp"

namespace quip {

/// Starts every operation without blocking and then polls, so that a rank which waits can
/// notice that nothing moves any more, and say whom it waits for (StallWatch).
class MpiCollectives final : public Collectives {
 public:
  /// Works on a duplicate of `parent`. `ranks_per_node`: takes this many consecutive ranks of this
  /// node for a node, as tests do; 0: asks MPI.
  explicit MpiCollectives(MPI_Comm parent = MPI_COMM_WORLD, int ranks_per_node = 0);

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }
  /// Returns the number of ranks of this group on this node.
  [[nodiscard]] int node_size() const noexcept { return node_size_; }
  [[nodiscard]] NodePlace place() const noexcept override { return place_; }
  /// Returns the reason why ranks that MPI has on one node share no memory; empty if they do.
  [[nodiscard]] const std::string& why_not_shared() const noexcept { return why_not_shared_; }
  void barrier() override;
  void all_reduce_sum(std::span<double> values) override;
  void reduce_scatter_sum(std::span<double> values, std::span<const index_t> offsets) override;
  void all_to_all_bytes(std::span<const std::byte> sent, std::span<const index_t> send_offsets,
                        std::span<std::byte> received,
                        std::span<const index_t> receive_offsets) override;
  void all_reduce_max(std::span<float> values) override;
  void broadcast_bytes(std::span<std::byte> bytes, int root) override;
  void all_gather_bytes(std::span<std::byte> buffer, std::span<const index_t> offsets) override;
  void node_barrier() override;
  void node_broadcast(std::span<std::byte> bytes) override;
  void all_gather_over_nodes(std::span<std::byte> buffer,
                             std::span<const index_t> offsets) override;

  /// Returns the communicator, for libraries that communicate themselves.
  [[nodiscard]] MPI_Comm get() const noexcept { return comm_.get(); }

  /// Ends the job with exit_stalled when a collective makes no progress for this many seconds; 0:
  /// never. The same on all ranks.
  void set_stall_timeout(double seconds);
  [[nodiscard]] double stall_timeout() const noexcept override;
  /// True if this rank is to report the failure (StallWatch).
  [[nodiscard]] bool speaks_for_failure();

 private:
  /// Issues an operation and returns MPI's code.
  using Start = std::function<int(MPI_Request*)>;
  /// The shares of ranks in a buffer, as MPI takes them.
  struct Shares {
    std::vector<int> counts;
    std::vector<int> offsets;

    Shares() = default;
    explicit Shares(std::span<const index_t> boundaries);
    void add(index_t count, index_t offset);
  };
  void complete(const char* collective, const Start& start);
  /// Completes a collective of some ranks; the others pass.
  void complete_among(bool member, const char* collective, const Start& start);
  void find_nodes(int ranks_per_node);
  void try_sharing();
  void sum_share(const char* collective, double* values, const Shares& shares, double* parts);
  void broadcast_pieces(std::span<std::byte> bytes, int root);
  void broadcast_by_shares(std::byte* data, int count, int root);
  void gather_shares(const char* collective, MPI_Datatype type, void* data, const Shares& shares);

  Communicator comm_;
  Communicator node_;     ///< the ranks of this node
  Communicator leaders_;  ///< the first ranks of all nodes; empty on the others
  int rank_ = 0;
  int size_ = 1;
  int node_size_ = 1;
  NodePlace place_;
  std::string why_not_shared_;
  std::unique_ptr<StallWatch> watch_;  ///< none for one rank, which waits for nobody
};

/// Returns the communicator behind `comm`, or that of this process alone if there is none.
[[nodiscard]] MPI_Comm communicator_of(const Collectives& comm);

}  // namespace quip
