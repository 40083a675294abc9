// The machine a job is planned for, and how ranks lie on it.
#pragma once

#include "quip/comm/collectives.hpp"

namespace quip::plan {

struct Layout {
  int nodes = 1;
  int ranks_per_node = 1;
  int cores_per_node = 1;
  int threads = 1;          ///< on each rank
  int gpus_per_node = 0;    ///< 0: the processor does everything
  index_t node_memory = 0;  ///< bytes; 0: not known
  index_t gpu_memory = 0;   ///< bytes of one device; 0: not known

  [[nodiscard]] int ranks() const { return nodes * ranks_per_node; }
  /// Returns the place of a rank. Consecutive ranks lie on a node.
  [[nodiscard]] NodePlace place_of(int rank) const {
    const int on_node = rank % ranks_per_node;
    return {on_node, ranks_per_node, rank / ranks_per_node, nodes, on_node, ranks_per_node};
  }
  /// Returns a rank's part of its node's cores: threads beyond them take turns.
  [[nodiscard]] double cores_of_rank() const {
    const double share = static_cast<double>(cores_per_node) / ranks_per_node;
    return share < threads ? share : threads;
  }
  /// Returns the bytes of its device that a rank may use; 0: not known.
  [[nodiscard]] index_t gpu_memory_of_rank() const {
    return ranks_per_node > gpus_per_node ? gpu_memory * gpus_per_node / ranks_per_node
                                          : gpu_memory;
  }
  /// Returns the number of devices that a rank computes on: less than one if ranks share.
  [[nodiscard]] double gpus_of_rank() const {
    const double share = static_cast<double>(gpus_per_node) / ranks_per_node;
    return share < 1 ? share : 1;
  }
};

}  // namespace quip::plan
