// The part of MpiCollectives that knows of nodes.
#include <array>
#include <atomic>

#include "quip/comm/mpi_collectives.hpp"
#include "quip/comm/node_memory.hpp"
#include "quip/comm/schedule.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip {

void MpiCollectives::find_nodes(int ranks_per_node) {
  const Communicator machine = Communicator::node_of(comm_.get());
  node_size_ = machine.size();
  node_ =
      Communicator::split(machine.get(), ranks_per_node > 0 ? machine.rank() / ranks_per_node : 0);
  place_.rank = node_.rank();
  place_.machine_rank = machine.rank();
  place_.machine_size = machine.size();
  place_.size = node_.size();
  leaders_ = Communicator::split(comm_.get(), place_.rank == 0 ? 0 : 1);
  std::array<int, 2> of_node{leaders_.rank(), leaders_.size()};
  QUIP_MPI(MPI_Bcast(of_node.data(), 2, MPI_INT, 0, node_.get()));
  place_.node = of_node[0];
  place_.nodes = of_node[1];
}

/// Finds out if the ranks of a node see one another: containers may hide their processes.
void MpiCollectives::try_sharing() {
  try {
    static_cast<void>(allocate_on_node(*this, 1));
  } catch (const AgreedError& error) {
    why_not_shared_ = error.what();
    place_ = {0, 1, rank_, size_, place_.machine_rank, place_.machine_size};
    node_ = Communicator::split(comm_.get(), rank_);
    leaders_ = Communicator::duplicate(comm_.get());
  }
}

void MpiCollectives::complete_among(bool member, const char* collective, const Start& start) {
  if (member) {
    complete(collective, start);
  } else {
    watch_->pass();
  }
}

void MpiCollectives::node_barrier() {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  complete_among(place_.size > 1, "node barrier",
                 [&](MPI_Request* request) { return MPI_Ibarrier(node_.get(), request); });
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void MpiCollectives::node_broadcast(std::span<std::byte> bytes) {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  complete_among(place_.size > 1, "node broadcast", [&](MPI_Request* request) {
    return MPI_Ibcast(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, 0, node_.get(),
                      request);
  });
  if (place_.rank == 0) {
    UsageMeter::current().add_sent(static_cast<index_t>(bytes.size()) * (place_.size - 1));
  }
}

void MpiCollectives::all_gather_over_nodes(std::span<std::byte> buffer,
                                           std::span<const index_t> offsets) {
  if (place_.nodes == 1) return;
  const UsageMeter::Communication time;
  const bool leads = place_.rank == 0;
  const auto start = [&](int node) { return offsets[at(node)]; };
  if (start(place_.nodes) <= piece_bytes) {
    const Shares shares(offsets);
    complete_among(leads, "all-gather over nodes", [&](MPI_Request* request) {
      return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffer.data(),
                             shares.counts.data(), shares.offsets.data(), MPI_BYTE, leaders_.get(),
                             request);
    });
  } else {  // counts and displacements are int
    for (int k = 0; k < place_.nodes; ++k) {
      for (index_t first = start(k); first < start(k + 1); first += piece_bytes) {
        const auto count = static_cast<int>(std::min(piece_bytes, start(k + 1) - first));
        complete_among(leads, "all-gather over nodes", [&](MPI_Request* request) {
          return MPI_Ibcast(buffer.data() + first, count, MPI_BYTE, k, leaders_.get(), request);
        });
      }
    }
  }
  if (!leads) return;
  UsageMeter::current().add_sent((start(place_.node + 1) - start(place_.node)) *
                                 (place_.nodes - 1));
}

}  // namespace quip
