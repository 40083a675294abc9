// The options that say how one layer is quantized, for every command that quantizes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "command.hpp"
#include <boost/program_options.hpp>

#include "quip/quant/options/options.hpp"

namespace quip::cli {

class LayerArguments {
 public:
  void declare(boost::program_options::options_description& options);
  /// Checks and combines what was parsed. Throws UsageError for a value that is none and for
  /// options without a meaning together, naming both.
  [[nodiscard]] LayerOptions options(const Given& given) const;
  /// The effective settings, for the table at the start.
  [[nodiscard]] static std::vector<std::pair<std::string, std::string>> settings(
      const LayerOptions& layer);

 private:
  void apply_paper(LayerOptions& layer, const Given& given) const;

  int bits_ = 2;
  std::string method_;
  std::string processing_;
  std::string rescale_;
  std::string transform_;
  std::string grid_;
  index_t group_size_ = 0;
  std::string groups_;
  bool symmetric_ = false;
  std::string rho_;
  std::string clamp_;
  bool paper_ = false;
  std::string order_;
  bool act_order_ = false;
  std::string rounding_;
  int passes_ = -1;
  double damp_ = 0.01;
  std::uint64_t seed_ = 0;
  bool spectra_ = false;
};

}  // namespace quip::cli
