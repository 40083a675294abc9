// The communication that the pipeline needs, over MPI or within one process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/core/range.hpp"

namespace quip {

/// The place of a rank among those that share its node's memory.
struct NodePlace {
  int rank = 0;   ///< its number among the ranks of its node
  int size = 1;   ///< number of ranks of its node
  int node = 0;   ///< nodes are numbered in the order of their lowest ranks
  int nodes = 1;  ///< number of nodes that have ranks
  // Devices are dealt out by its number on its machine, with common memory or not.
  int machine_rank = 0;
  int machine_size = 1;
};

/// Collective operations over a fixed group of ranks. Every call is collective: all ranks make the
/// same calls in the same order. Counts may exceed 2³¹. Bytes sent and the time inside go to
/// UsageMeter.
class Collectives {
 public:
  Collectives() = default;
  Collectives(const Collectives&) = delete;
  Collectives& operator=(const Collectives&) = delete;
  virtual ~Collectives() = default;

  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;
  /// Returns the seconds without progress after which an operation gives up; 0: never.
  [[nodiscard]] virtual double stall_timeout() const noexcept { return 0; }
  /// Returns the same group in host memory alone: these collectives, or those under them.
  [[nodiscard]] virtual const Collectives& host() const noexcept { return *this; }

  virtual void barrier() = 0;
  /// Sums element by element, in place. Exact (hence independent of the order) when the summands
  /// are integers below 2⁵³.
  virtual void all_reduce_sum(std::span<double> values) = 0;
  /// Leaves rank r the sum over all ranks of elements [offsets[r], offsets[r+1]), in `values`,
  /// whose other elements are undefined afterwards. `offsets` has size()+1 entries; fewer than 2³¹
  /// elements. Exact like all_reduce_sum.
  virtual void reduce_scatter_sum(std::span<double> values, std::span<const index_t> offsets) = 0;
  /// Takes the maximum element by element, in place.
  virtual void all_reduce_max(std::span<float> values) = 0;
  virtual void broadcast_bytes(std::span<std::byte> bytes, int root) = 0;
  /// Gathers in place: rank r contributes bytes [offsets[r], offsets[r+1]) of `buffer`; afterwards
  /// every rank holds all of it. `offsets` has size()+1 entries.
  virtual void all_gather_bytes(std::span<std::byte> buffer, std::span<const index_t> offsets) = 0;
  /// Sends rank r bytes [send_offsets[r], send_offsets[r+1]) of `sent`, and receives what it sends
  /// to this rank in bytes [receive_offsets[r], receive_offsets[r+1]) of `received`. Both have
  /// size()+1 entries.
  virtual void all_to_all_bytes(std::span<const std::byte> sent,
                                std::span<const index_t> send_offsets,
                                std::span<std::byte> received,
                                std::span<const index_t> receive_offsets) = 0;

  /// Returns a node of its own for every rank that is not known to share memory with others.
  [[nodiscard]] virtual NodePlace place() const noexcept { return {0, 1, rank(), size(), 0, 1}; }
  /// Waits for the ranks of the node. Earlier writes to common memory are then visible to all.
  virtual void node_barrier() {}
  /// Sends bytes from the first rank of each node to the others of that node.
  virtual void node_broadcast(std::span<std::byte> /*bytes*/) {}
  /// Gathers in place into a buffer that exists once on a node: node k contributes bytes
  /// [offsets[k], offsets[k+1]), written before a node_barrier; after the next one, every node has
  /// all of it. The first rank of a node speaks for it, so that nothing crosses the network twice.
  virtual void all_gather_over_nodes(std::span<std::byte> buffer,
                                     std::span<const index_t> offsets) {
    all_gather_bytes(buffer, offsets);
  }

  template <typename T>
  void broadcast(std::span<T> values, int root) {
    static_assert(std::is_trivially_copyable_v<T>);
    broadcast_bytes(std::as_writable_bytes(values), root);
  }
  template <typename T>
  void broadcast_value(T& value, int root) {
    broadcast(std::span(&value, 1), root);
  }
  /// Strings and vectors may differ in length: the root's length is sent first.
  template <typename Values>
  requires requires(Values& values) { values.resize(values.size()); }
  void broadcast(Values& values, int root) {
    auto length = static_cast<std::uint64_t>(values.size());
    broadcast_value(length, root);
    values.resize(length);
    broadcast(std::span(values), root);
  }
  /// Returns every rank's text, by rank.
  [[nodiscard]] std::vector<std::string> gather(const std::string& text);
};

/// The group of one process: every operation is the identity.
class SelfCollectives final : public Collectives {
 public:
  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int size() const noexcept override { return 1; }
  void barrier() override {}
  void all_reduce_sum(std::span<double> /*values*/) override {}
  void reduce_scatter_sum(std::span<double> /*values*/,
                          std::span<const index_t> /*offsets*/) override {}
  void all_reduce_max(std::span<float> /*values*/) override {}
  void broadcast_bytes(std::span<std::byte> /*bytes*/, int /*root*/) override {}
  void all_gather_bytes(std::span<std::byte> /*buffer*/,
                        std::span<const index_t> /*offsets*/) override {}
  void all_to_all_bytes(std::span<const std::byte> sent, std::span<const index_t> /*send_offsets*/,
                        std::span<std::byte> received,
                        std::span<const index_t> /*receive_offsets*/) override {
    std::copy(sent.begin(), sent.end(), received.begin());
  }
};

/// Returns the message of an error for the user, or the cure when memory has run out.
[[nodiscard]] std::string message_of(const std::exception& error);

/// Runs `work` on every rank, then agrees on the outcome: if it threw anywhere, every rank throws
/// AgreedError with the message of the lowest rank that failed. Nobody is left waiting in a
/// collective, unless `work` communicates: then it has to agree by itself before it does, after all
/// that can throw. A rank that failed by then is met there.
void agree(Collectives& comm, const std::function<void()>& work);

}  // namespace quip
