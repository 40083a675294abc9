// The options that say which part of a quantization a run does, and what it leaves for the next.
#pragma once

#include <optional>

#include "command.hpp"
#include <boost/program_options.hpp>

#include "quip/pipeline/quantize.hpp"

namespace quip::cli {

class CheckpointArguments {
 public:
  void declare(boost::program_options::options_description& options);
  /// --keep-states alone.
  void declare_keep_states(boost::program_options::options_description& options);
  /// Throws UsageError for options without a meaning together.
  void apply(QuantizeOptions& job) const;

 private:
  bool resume_ = false;
  bool repair_ = false;
  std::optional<KeepStates> keep_;  ///< empty: auto
  std::optional<Range> blocks_;
};

}  // namespace quip::cli
