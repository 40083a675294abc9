#include "checkpoint_arguments.hpp"

#include <charconv>

namespace quip::cli {

namespace po = boost::program_options;

namespace {

std::optional<KeepStates> parse_keep(const std::string& text) {
  if (text == "auto") return std::nullopt;
  if (text == "none") return KeepStates::none;
  if (text == "last") return KeepStates::last;
  if (text == "all") return KeepStates::all;
  throw UsageError(fmt::format("--keep-states {}: must be auto, none, last or all", text));
}

/// A whole number at the beginning of `text`, which is shortened by it; -1 if there is none.
index_t take_number(std::string_view& text) {
  index_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return -1;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

Range parse_blocks(const std::string& text) {
  std::string_view rest = text;
  Range range;
  range.first = take_number(rest);
  const bool colon = rest.starts_with(':');
  if (colon) rest.remove_prefix(1);
  range.last = take_number(rest);
  if (!colon || !rest.empty() || range.first < 0 || range.last <= range.first) {
    throw UsageError(
        fmt::format("--blocks {}: must be FIRST:END, blocks FIRST to END-1, e.g. 0:8", text));
  }
  return range;
}

}  // namespace

void CheckpointArguments::declare(po::options_description& options) {
  options.add_options()("resume", po::bool_switch(&resume_),
                        "go on with what an earlier run left in --out, on any number of ranks; "
                        "start if there is nothing");
  options.add_options()("repair", po::bool_switch(&repair_),
                        "check everything in --out and make anew what is damaged");
  declare_keep_states(options);
  options.add_options()("blocks", po::value(&blocks_)->value_name("FIRST:END"),
                        "quantize blocks FIRST to END-1 only; --resume does the others later");
}

void CheckpointArguments::declare_keep_states(po::options_description& options) {
  options.add_options()("keep-states",
                        po::value(&keep_states_)->default_value("auto")->value_name("WHICH"),
                        "hidden states on disk: none (resuming computes them again), last (until "
                        "the run is complete), all (for good) or auto (last if they are no larger "
                        "than the model, else none)");
}

void CheckpointArguments::apply(QuantizeOptions& job, const Given& given) const {
  if (repair_ && given("blocks")) {
    throw UsageError("--repair makes anew what is damaged, wherever: leave out --blocks");
  }
  job.start = repair_ ? Start::repair : (resume_ ? Start::resume : Start::fresh);
  job.keep_states = parse_keep(keep_states_);
  if (given("blocks")) job.blocks = parse_blocks(blocks_);
}

}  // namespace quip::cli
