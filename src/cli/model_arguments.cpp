#include "model_arguments.hpp"

namespace quip::cli {

namespace po = boost::program_options;

void ModelArguments::declare(po::options_description& options) {
  options.add_options()("model", po::value(&model_)->value_name("DIR"),
                        "Hugging Face directory (with --packed: optional, checked to match)");
  options.add_options()("packed", po::value(&packed_)->value_name("DIR"),
                        "evaluate this packed model");
}

void ModelArguments::check() const {
  if (model_.empty() && packed_.empty()) {
    throw UsageError("give --model DIR, or --packed DIR, or both");
  }
}

}  // namespace quip::cli
