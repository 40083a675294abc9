// The options that say how one layer is quantized, for every command that quantizes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "command.hpp"
#include <boost/program_options.hpp>

#include "quip/pipeline/quantize.hpp"

namespace quip::cli {

class LayerArguments {
 public:
  void declare(boost::program_options::options_description& options);
  /// Those, and what tells the layers of a model apart; the latter go into `job`.
  void declare_for_model(boost::program_options::options_description& options,
                         QuantizeOptions& job);
  /// Checks and combines what was parsed. Throws Error for options without a meaning together,
  /// naming both.
  [[nodiscard]] LayerOptions options(const Command& command) const;
  /// Returns the settings in force, for the table at the start; "-": it has no meaning there.
  [[nodiscard]] static std::vector<std::pair<std::string, std::string>> settings(
      const LayerOptions& layer);

 private:
  LayerOptions layer_;
  bool paper_ = false;
};

}  // namespace quip::cli
