// The options that say how a command runs, not what it makes; for every command that computes.
#pragma once

#include <memory>
#include <string>

#include "command.hpp"
#include <boost/program_options.hpp>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/progress.hpp"

namespace quip::cli {

class RunArguments {
 public:
  /// --threads and --config.
  void declare(boost::program_options::options_description& options);
  /// --stall-timeout, for commands that run on several ranks.
  void declare_for_ranks(boost::program_options::options_description& options);
  /// Those and --backend.
  void declare_with_backend(boost::program_options::options_description& options);
  /// All of those, --allow-unused, --progress and --`unit`: how many of a file's units to take
  /// (`help`).
  void declare_with_model(boost::program_options::options_description& options, const char* unit,
                          const char* help);

  /// Units to take; 0: all.
  [[nodiscard]] index_t count() const { return count_; }
  /// Blocks may hold tensors that their family does not have.
  [[nodiscard]] bool allow_unused() const { return allow_unused_; }
  /// As asked for; 0: not.
  [[nodiscard]] int threads() const { return threads_; }
  /// Settles and sets this rank's OpenMP threads: those asked for, or the rank's share of the
  /// node's cores where neither the user nor the launcher has bound them.
  int use_threads(int node_size) const;
  /// Collective: fails on all ranks if one of them cannot have the backend.
  [[nodiscard]] std::unique_ptr<Backend> make_backend(Collectives& comm, int threads) const;
  [[nodiscard]] Progress progress(const Collectives& comm) const;

 private:
  index_t count_ = 0;
  bool allow_unused_ = false;
  int threads_ = 0;
  std::string backend_;
  ProgressStyle progress_ = ProgressStyle::none;
};

}  // namespace quip::cli
