// Which model to run: a checkpoint or a packed model, for the commands that evaluate one.
#pragma once

#include <string>

#include "command.hpp"
#include <boost/program_options.hpp>

namespace quip::cli {

class ModelArguments {
 public:
  void declare(boost::program_options::options_description& options);
  /// Throws UsageError if neither is given.
  void check() const;
  /// Empty: not given.
  [[nodiscard]] const std::string& model() const { return model_; }
  [[nodiscard]] const std::string& packed() const { return packed_; }

 private:
  std::string model_;
  std::string packed_;
};

}  // namespace quip::cli
