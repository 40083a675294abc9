#include "quip/pipeline/quantize.hpp"

#include <optional>

#include "checkpoint_arguments.hpp"
#include "command.hpp"
#include "layer_arguments.hpp"
#include "run_arguments.hpp"
#include "stop_signals.hpp"
#include <fmt/ranges.h>

#include "quip/backend/cuda_backend.hpp"
#include "quip/pipeline/report.hpp"

namespace quip::cli {
namespace {

namespace po = boost::program_options;

class QuantizeCommand final : public Command {
 public:
  QuantizeCommand() : Command("quantize", "Quantize a Hugging Face checkpoint to a packed model.") {
    options_.add_options()("model", po::value(&model_)->required()->value_name("DIR"),
                           "Hugging Face directory: config.json, safetensors");
    options_.add_options()("tokens", po::value(&tokens_)->required()->value_name("FILE"),
                           "calibration tokens: HDF5 with input_ids [samples, length]");
    options_.add_options()("out", po::value(&out_)->required()->value_name("DIR"),
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
    options_.add_options()("dump-failing", po::value(&dump_failing_)->value_name("DIR"),
                           "keep weights and Hessian of a layer that cannot be factorised, for "
                           "quip quantize-layer");
    checkpoints_.declare(options_);
    run_.declare_with_model(options_, "samples", "use the first N samples of the token set");
  }

  void check() override {
    signals_.emplace();  // early: a batch system's warning may come while MPI starts
    job_.layer = arguments_.options(*this);
    checkpoints_.apply(job_);
    job_.model = model_;
    job_.tokens = tokens_;
    job_.out = out_;
    job_.samples = run_.count();
    job_.allow_unused = run_.allow_unused();
    job_.dump_failing = dump_failing_;
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
    job_.stop_requested = [] { return StopSignals::received(); };
    job_.on_note = [&progress](const std::string& note) { progress.note(note); };
    const auto between_devices = make_device_collectives(*backend, comm, stall_timeout());
    Collectives& fastest = between_devices ? *between_devices : comm;
    const QuantizeOutcome outcome = quantize(fastest, *backend, job_, threads, progress);
    if (comm.rank() == 0) print_ending(outcome);
    return outcome.ending == Ending::stopped ? exit_stopped : EXIT_SUCCESS;
  }

 private:
  void print_ending(const QuantizeOutcome& outcome) const {
    if (outcome.ending == Ending::finished) {
      fmt::print("{}  written to        {}\n", summary_table(outcome.report), out_);
    } else if (outcome.ending == Ending::already_complete) {
      fmt::print("{} is complete; nothing to do\n", out_);
    } else {
      fmt::print("{}: {} of {} blocks are quantized{}; go on with --resume\n", out_,
                 outcome.blocks_done, outcome.blocks,
                 outcome.ending == Ending::stopped ? ", stopped by a signal" : "");
    }
  }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> settings(const Backend& backend,
                                                                          int ranks,
                                                                          int threads) const {
    std::vector<std::pair<std::string, std::string>> table = {
        {"model", model_},
        {"tokens", tokens_},
        {"samples", run_.count() == 0 ? "all" : std::to_string(run_.count())},
        {"out", out_}};
    const auto layer = LayerArguments::settings(job_.layer);
    table.insert(table.end(), layer.begin(), layer.end());
    const std::string rules = fmt::format("{}", fmt::join(job_.overrides.rules(), " "));
    table.insert(table.end(), {{"skip", job_.skip.empty() ? "-" : job_.skip},
                               {"override", rules.empty() ? "-" : rules},
                               {"wide", fmt::format("from {} inputs", job_.wide.inputs)},
                               {"process grid",
                                job_.wide.process_grid ? to_string(*job_.wide.process_grid) : "-"},
                               {"sequential", job_.true_sequential ? "layers" : "blocks"},
                               {"backend", backend.describe()},
                               {"ranks", std::to_string(ranks)},
                               {"threads", std::to_string(threads)}});
    return table;
  }

  QuantizeOptions job_;
  std::string model_;
  std::string tokens_;
  std::string out_;
  LayerArguments arguments_;
  CheckpointArguments checkpoints_;
  std::optional<StopSignals> signals_;
  RunArguments run_;
  std::string dump_failing_;
};

}  // namespace

std::unique_ptr<Command> make_quantize_command() { return std::make_unique<QuantizeCommand>(); }

}  // namespace quip::cli
