#include "checkpoint_arguments.hpp"

#include <algorithm>

namespace quip::cli {

namespace po = boost::program_options;

namespace {

constexpr Names<std::optional<KeepStates>, 4> keep_names{{{std::nullopt, "auto"},
                                                          {KeepStates::none, "none"},
                                                          {KeepStates::last, "last"},
                                                          {KeepStates::all, "all"}}};

Range parse_blocks(const std::string& text) {
  const std::size_t colon = std::min(text.find(':'), text.size() - 1);
  try {
    const Range range{parse_number<index_t>(text.substr(0, colon)),
                      parse_number<index_t>(text.substr(colon + 1))};
    if (range.first < range.last) return range;
  } catch (const Error&) {
    // said below
  }
  fail("must be FIRST:END, blocks FIRST to END-1, e.g. 0:8");
}

}  // namespace

void CheckpointArguments::declare(po::options_description& options) {
  options.add_options()("resume", po::bool_switch(&resume_),
                        "go on with what an earlier run left in --out, on any number of ranks; "
                        "start if there is nothing");
  options.add_options()("repair", po::bool_switch(&repair_),
                        "check everything in --out and make anew what is damaged");
  declare_keep_states(options);
  const auto take = [this](const std::string& text) { blocks_ = parse_blocks(text); };
  options.add_options()("blocks", value_of("blocks", "FIRST:END", take),
                        "quantize blocks FIRST to END-1 only; --resume does the others later");
}

void CheckpointArguments::declare_keep_states(po::options_description& options) {
  const auto take = [this](const std::string& text) { keep_ = parse_name(text, keep_names); };
  options.add_options()("keep-states",
                        value_of("keep-states", "WHICH", take)->default_value("auto"),
                        "hidden states on disk: none (resuming computes them again), last (until "
                        "the run is complete), all (for good) or auto (last if they are no larger "
                        "than the model, else none)");
}

void CheckpointArguments::apply(QuantizeOptions& job) const {
  if (repair_ && blocks_) {
    throw UsageError("--repair makes anew what is damaged, wherever: leave out --blocks");
  }
  job.start = repair_ ? Start::repair : (resume_ ? Start::resume : Start::fresh);
  job.keep_states = keep_;
  job.blocks = blocks_;
}

}  // namespace quip::cli
