// The options that say how one layer is quantized, for every command that quantizes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "command.hpp"

#include "quip/pipeline/quantize.hpp"

namespace quip::cli {

struct Engine;

class LayerArguments {
 public:
  /// Declares them; with `job`, the number of bits may be a fraction, which goes there.
  void declare(po::options_description& options, QuantizeOptions* job = nullptr);
  /// Declares those, and the options that tell the layers of a model apart, which go into `job`.
  void declare_for_model(po::options_description& options, QuantizeOptions& job);
  /// Checks and combines what was parsed. Throws Error for options without a meaning together,
  /// naming both.
  [[nodiscard]] LayerOptions options(const Command& command) const;
  /// Settles what of `job` depends on other options, once they are in job.layer. Throws UsageError
  /// for options of --target stream without it.
  void settle_model(QuantizeOptions& job) const;
  /// Returns the settings in force, for the table at the start; "-" where it has no meaning.
  [[nodiscard]] static std::vector<std::pair<std::string, std::string>> settings(
      const LayerOptions& layer);

 private:
  LayerOptions layer_;
  const Engine* engine_ = nullptr;
  bool paper_ = false;
  bool mixed_ = false;
};

/// Declares --keep-states, which goes into `job`.
void declare_keep_states(po::options_description& options, QuantizeOptions& job);

}  // namespace quip::cli
