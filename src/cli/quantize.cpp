#include "quip/pipeline/quantize.hpp"

#include <algorithm>

#include "command.hpp"
#include "layer_arguments.hpp"
#include "run_arguments.hpp"
#include "stop_signals.hpp"
#include <fmt/ranges.h>

#include "quip/backend/cuda_backend.hpp"
#include "quip/pipeline/report.hpp"
#include "quip/plan/render.hpp"

namespace quip::cli {
namespace {

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

class QuantizeCommand final : public Command {
 public:
  QuantizeCommand() : Command("quantize", "Quantize a Hugging Face checkpoint to a packed model.") {
    options_.add_options()("model", model_directory(job_.model, "DIR")->required(),
                           "Hugging Face directory: config.json, safetensors");
    options_.add_options()("tokens", text(job_.tokens, "FILE")->required(),
                           "calibration tokens: HDF5 with input_ids [samples, length]");
    options_.add_options()("out", text(job_.out, "DIR")->required(),
                           "output directory: new or empty, or an earlier run's");
    arguments_.declare_for_model(options_, job_);
    const auto grid = [this](const std::string& text) {
      job_.wide.process_grid = parse_grid_shape(text);
    };
    options_.add_options()(
        "process-grid", value_of("process-grid", "PxQ", grid),
        "factorise those with ScaLAPACK, or cuSOLVERMp between GPUs, on this grid "
        "of ranks; last bits belong to the grid (default: own factorisation, same bits on any "
        "ranks)");
    options_.add_options()("dump-failing", text(job_.dump_failing, "DIR"),
                           "keep weights and Hessian of a layer that cannot be factorised, for "
                           "quip quantize-layer");
    declare_checkpoints();
    run_.declare_with_model(options_, "samples", "use the first N samples of the token set");
  }

  void check() override {
    heed_stop_signals();  // early: a batch system's warning may come while MPI starts
    job_.layer = arguments_.options(*this);
    arguments_.settle_model(job_);
    if (repair_ && job_.blocks) {
      throw UsageError("--repair makes anew what is damaged, wherever: leave out --blocks");
    }
    job_.start = repair_ ? Start::repair : (resume_ ? Start::resume : Start::fresh);
    job_.samples = run_.count;
    job_.allow_unused = run_.allow_unused;
  }

  int run(Collectives& comm, int node_size) override {
    const int threads = run_.use_threads(node_size);
    const std::unique_ptr<Backend> backend = run_.make_backend(comm, threads);
    if (comm.rank() == 0) {
      fmt::print("quip {} quantize\n{}", QUIP_VERSION,
                 settings_table(settings(*backend, comm.size(), threads)));
      std::fflush(stdout);
    }
    Progress progress = run_.progress(comm);
    job_.stop_requested = stop_signal_received;
    job_.on_note = [&progress](const std::string& note) { progress.note(note); };
    const auto between_devices = make_device_collectives(*backend, comm, stall_timeout());
    Collectives& fastest = between_devices ? *between_devices : comm;
    const QuantizeOutcome outcome = quantize(fastest, *backend, job_, threads, progress);
    if (comm.rank() == 0) print_ending(outcome);
    return outcome.ending == Ending::stopped ? exit_stopped : EXIT_SUCCESS;
  }

 private:
  /// Declares which part of the work a run does, and what it leaves for the next.
  void declare_checkpoints() {
    options_.add_options()("resume", po::bool_switch(&resume_),
                           "go on with what an earlier run left in --out, on any number of ranks; "
                           "start if there is nothing");
    options_.add_options()("repair", po::bool_switch(&repair_),
                           "check everything in --out and make anew what is damaged");
    declare_keep_states(options_, job_);
    const auto blocks = [this](const std::string& text) { job_.blocks = parse_blocks(text); };
    options_.add_options()("blocks", value_of("blocks", "FIRST:END", blocks),
                           "quantize blocks FIRST to END-1 only; --resume does the others later");
  }

  void print_ending(const QuantizeOutcome& outcome) const {
    if (outcome.ending == Ending::finished) {
      fmt::print("{}  written to        {}\n\n{}", summary_table(outcome.report), job_.out.string(),
                 next_steps());
    } else if (outcome.ending == Ending::already_complete) {
      fmt::print("{} is complete; nothing to do\n", job_.out.string());
    } else {
      fmt::print("{}: {} of {} blocks are quantized{}; go on with --resume\n", job_.out.string(),
                 outcome.blocks_done, outcome.blocks,
                 outcome.ending == Ending::stopped ? ", stopped by a signal" : "");
    }
  }

  /// Returns what to do with the result, as commands.
  [[nodiscard]] std::string next_steps() const {
    const std::string out = job_.out.string();
    const char* format = job_.export_format != nullptr ? job_.export_format->name()
                         : job_.layer.has_trellis()    ? "exl3"
                                                       : "bf16";
    return fmt::format(
        "next\n"
        "  quip eval --packed {0} --against {1} --tokens FILE     how much was lost, on other "
        "tokens\n"
        "  quip export --packed {0} --model {1} --format {2} --out {3}\n",
        plan::quoted(out), plan::quoted(job_.model.string()), format,
        plan::quoted(fmt::format("{}-{}", out, format)));
  }

  [[nodiscard]] std::string target() const {
    if (!job_.stream.on) return "layer";
    return fmt::format("{}, drift {}, residual {}", job_.stream.where_useful ? "auto" : "stream",
                       job_.stream.drift, job_.stream.residual);
  }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> settings(const Backend& backend,
                                                                          int ranks,
                                                                          int threads) const {
    std::vector<std::pair<std::string, std::string>> table = {
        {"model", job_.model.string()},
        {"tokens", job_.tokens.string()},
        {"samples", run_.count == 0 ? "all" : std::to_string(run_.count)},
        {"out", job_.out.string()}};
    auto layer = LayerArguments::settings(job_.layer);
    if (job_.mean_bits) layer.front().second = fmt::format("{} in the mean", *job_.mean_bits);
    table.insert(table.end(), layer.begin(), layer.end());
    const std::string rules = fmt::format("{}", fmt::join(job_.overrides.rules(), " "));
    table.insert(
        table.end(),
        {{"skip", job_.skip.empty() ? "-" : job_.skip},
         {"override", rules.empty() ? "-" : rules},
         {"wide", fmt::format("from {} inputs", job_.wide.inputs)},
         {"process grid", job_.wide.process_grid ? to_string(*job_.wide.process_grid) : "-"},
         {"sequential", job_.sequential() ? "layers" : "blocks"},
         {"target", target()},
         {"experts", fmt::format("{}, prior {}", to_string(job_.experts), job_.expert_prior)},
         {"backend", backend.describe()},
         {"ranks", std::to_string(ranks)},
         {"threads", std::to_string(threads)}});
    return table;
  }

  QuantizeOptions job_;
  bool resume_ = false;
  bool repair_ = false;
  LayerArguments arguments_;
  RunArguments run_;
};

}  // namespace

std::unique_ptr<Command> make_quantize_command() { return std::make_unique<QuantizeCommand>(); }

}  // namespace quip::cli
