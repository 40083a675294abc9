// Options on how a command runs, not on what it makes; for every command that computes.
#pragma once

#include <memory>
#include <string>

#include "command.hpp"

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/progress.hpp"

namespace quip::cli {

class RunArguments {
 public:
  /// Declares --threads and --config.
  void declare(po::options_description& options);
  /// Declares --stall-timeout, for commands that run on several ranks.
  void declare_for_ranks(po::options_description& options);
  /// Declares those and --backend.
  void declare_with_backend(po::options_description& options);
  /// Declares all of those, --allow-unused, --progress and --`unit`, the number of a file's units
  /// to take (`help`).
  void declare_with_model(po::options_description& options, const char* unit, const char* help);

  index_t count = 0;          ///< units to take; 0: all
  bool allow_unused = false;  ///< blocks may hold tensors that their family does not have
  int threads = 0;            ///< OpenMP threads asked for; 0: none

  /// Sets and returns this rank's OpenMP threads: those asked for, or the rank's share of the
  /// node's cores where neither the user nor the launcher has bound them.
  int use_threads(int node_size) const;
  /// Makes the backend for this many threads (collective). Throws AgreedError if some rank cannot
  /// have it.
  [[nodiscard]] std::unique_ptr<Backend> make_backend(Collectives& comm, int used) const;
  [[nodiscard]] Progress progress(const Collectives& comm) const {
    return {progress_, comm.rank()};
  }

 private:
  std::string backend_;
  ProgressStyle progress_ = ProgressStyle::none;
};

}  // namespace quip::cli
