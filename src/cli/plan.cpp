#include <fstream>
#include <limits>
#include <optional>
#include <unistd.h>

#include "command.hpp"
#include "layer_arguments.hpp"
#include "run_arguments.hpp"

#include "quip/backend/cuda_backend.hpp"
#include "quip/calib/token_set.hpp"
#include "quip/pipeline/mixed_bits.hpp"
#include "quip/plan/calibrate.hpp"
#include "quip/plan/render.hpp"

namespace quip::cli {
namespace {

using plan::Layout;
using plan::PlannedJob;
using plan::Prediction;
using plan::Rates;

constexpr index_t default_samples = 128;
constexpr index_t default_length = 2048;
constexpr double least_memory = std::numeric_limits<double>::min();

po::typed_value<std::string>* number(const char* option, int& value, int least) {
  return value_of(option, "N",
                  [&value, least](const std::string& text) { value = parse_number(text, least); });
}

void write_file(const std::string& file, const std::string& text) {
  std::ofstream stream(file);
  stream << text;
  stream.close();
  if (!stream) fail("{}: cannot write", file);
}

class PlanCommand final : public Command {
 public:
  PlanCommand()
      : Command("plan", "Predict what quantizing a model takes: bytes, memory, time, layout.") {
    options_.add_options()("model", model_directory(model_, "PATH")->required(),
                           "config.json, or a directory with one; weights are not needed");
    declare_machine();
    options_.add_options()("length", number_or("auto", "length", "N", length_),
                           "tokens of a sample; auto: those of --tokens, or 2048");
    declare_job(job_only_);
    options_.add(job_only_);
    declare_output();
    run_.declare_with_backend(options_);
  }

  /// True for a calibration, a job of all ranks; a plan is arithmetic.
  [[nodiscard]] bool parallel() const override { return calibrate_; }

  void check() override {
    job_options_.layer = arguments_.options(*this);
    arguments_.settle_model(job_options_);
    if (!emit_.empty() && (tokens_.empty() || out_.empty())) {
      throw UsageError("--emit: the batch file also needs --tokens FILE and --out DIR");
    }
    if (calibrate_ && given("nodes")) {
      throw UsageError("--calibrate measures the layout it runs on: leave out --nodes");
    }
  }

  int run(Collectives& comm, int node_size) override {
    std::optional<plan::ModelShapes> model;
    std::optional<PlannedJob> job;
    agree(comm, [&] {
      model = plan::open_shapes(model_);
      job_options_.stream = job_options_.stream.decided(*model->family);
      if (job_options_.mean_bits) {
        job_options_.bits_by_layer = even_bits(job_options_, *model->family);
      }
      job.emplace(PlannedJob{*model, job_options_, samples(), length(*model)});
    });
    Layout machine = machine_of(node_size);
    std::optional<Rates> rates;
    if (calibrate_) {
      rates = measure(comm, *job, machine, node_size);
    } else if (!rates_file_.empty()) {
      rates = plan::read_rates(rates_file_);
    }
    agree(comm, [&] {
      if (comm.rank() == 0) predict(*job, machine, rates ? &*rates : nullptr);
    });
    return EXIT_SUCCESS;
  }

 private:
  /// Declares the options that `quip quantize` takes, too.
  void declare_job(po::options_description& options) {
    options.add_options()("samples", number_or("all", "samples", "N", samples_),
                          "calibration samples; all: those of --tokens, or 128 without");
    arguments_.declare_for_model(options, job_options_);
    declare_keep_states(options, job_options_);
  }

  void declare_machine() {
    options_.add_options()("nodes", number("nodes", machine_.nodes, 1)->default_value("1"),
                           "nodes of the job");
    options_.add_options()("ranks-per-node",
                           number_or("best", "ranks-per-node", "N", ranks_per_node_),
                           "ranks on each node");
    options_.add_options()("cores-per-node",
                           number_or("auto", "cores-per-node", "N", machine_.cores_per_node),
                           "cores of a node; auto: this machine's");
    options_.add_options()("gpus-per-node",
                           number("gpus-per-node", machine_.gpus_per_node, 0)->default_value("0"),
                           "devices of a node");
    options_.add_options()("memory", number_or("unknown", "memory", "GiB", memory_, least_memory),
                           "memory of a node");
    options_.add_options()("gpu-memory",
                           number_or("unknown", "gpu-memory", "GiB", gpu_memory_, least_memory),
                           "memory of a device");
    options_.add_options()("rates", text(rates_file_, "FILE"),
                           "how fast the machine is, as --calibrate writes it; without: no times");
    options_.add_options()("calibrate", po::bool_switch(&calibrate_),
                           "measure the rates here, under mpirun on as many ranks as are to be "
                           "planned with; written to --rates");
    options_.add_options()("scratch", text(scratch_, "DIR")->default_value("."),
                           "file system to calibrate: where --out will lie");
  }

  void declare_output() {
    options_.add_options()("json", text(json_, "FILE"), "write the plan as JSON");
    options_.add_options()("emit", text(emit_, "FILE"),
                           "write a batch file for Slurm that runs the plan");
    options_.add_options()(
        "tokens", text(tokens_, "FILE"),
        "calibration tokens: for --emit; tells --samples and --length if it is there");
    options_.add_options()("out", text(out_, "DIR"), "output directory of the run: for --emit");
    options_.add_options()("home", text(home_, "DIR"),
                           "checkout of quip on the cluster: for --emit");
  }

  [[nodiscard]] bool tokens_there() const {
    return !tokens_.empty() && ::access(tokens_.c_str(), R_OK) == 0;
  }
  [[nodiscard]] index_t samples() const {
    if (samples_ > 0) return samples_;
    return tokens_there() ? TokenSet(tokens_).samples() : default_samples;
  }
  [[nodiscard]] index_t length(const plan::ModelShapes& model) const {
    if (length_ > 0) return length_;
    if (tokens_there()) return TokenSet(tokens_).length();
    return std::min(default_length, model.family->max_length());
  }

  [[nodiscard]] Layout machine_of(int node_size) const {
    constexpr double gib = 1 << 30;
    Layout machine = machine_;
    if (machine.cores_per_node == 0) {
      machine.cores_per_node = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
    }
    machine.node_memory = static_cast<index_t>(memory_ * gib);
    machine.gpu_memory = static_cast<index_t>(gpu_memory_ * gib);
    machine.ranks_per_node = calibrate_ ? node_size : ranks_per_node_;
    return machine;
  }

  [[nodiscard]] Rates measure(Collectives& comm, const PlannedJob& job, Layout& layout,
                              int node_size) const {
    layout.threads = run_.use_threads(node_size);
    layout.nodes = comm.place().nodes;
    const auto backend = run_.make_backend(comm, layout.threads);
    const auto between_devices = make_device_collectives(*backend, comm, stall_timeout());
    Collectives& fastest = between_devices ? *between_devices : comm;
    Rates rates = plan::calibrate(fastest, *backend, job, layout, scratch_);
    agree(comm, [&] {
      if (comm.rank() == 0 && !rates_file_.empty()) {
        write_file(rates_file_, plan::to_json(rates).dump(2) + "\n");
      }
    });
    return rates;
  }

  [[nodiscard]] std::vector<Layout> layouts(const Layout& machine) const {
    if (machine.ranks_per_node == 0) return plan::candidates(machine);
    Layout layout = machine;
    if (!calibrate_) {
      layout.threads = run_.threads > 0
                           ? run_.threads
                           : std::max(1, machine.cores_per_node / machine.ranks_per_node);
    }
    return {layout};
  }

  void predict(const PlannedJob& job, const Layout& machine, const Rates* rates) const {
    std::vector<Prediction> predictions;
    for (const Layout& layout : layouts(machine)) {
      predictions.push_back(plan::predict(job, layout, rates));
    }
    const std::optional<std::size_t> best = plan::best_of(predictions);
    const Prediction& shown = predictions[best.value_or(0)];
    fmt::print("quip {} plan\n{}", QUIP_VERSION, plan::describe_job(job));
    if (predictions.size() > 1) fmt::print("\n{}", plan::compare_layouts(predictions, best));
    fmt::print("{}", plan::describe(shown));
    if (!json_.empty()) write_file(json_, plan::to_json(job, shown).dump(1) + "\n");
    if (!emit_.empty() && best) write_file(emit_, plan::batch_file(shown, submission()));
    if (!best) fail("the plan does not fit: {}", shown.problems.front());
  }

  /// Hands on what the user gave for the run itself.
  [[nodiscard]] plan::Submission submission() const {
    plan::Submission submission;
    submission.home = home_;
    submission.arguments = {"--model", model_, "--tokens", tokens_, "--out", out_};
    const std::vector<std::string> job = given_again(job_only_);
    submission.arguments.insert(submission.arguments.end(), job.begin(), job.end());
    return submission;
  }

  Layout machine_;
  int ranks_per_node_ = 0;
  double memory_ = 0;
  double gpu_memory_ = 0;
  index_t samples_ = 0;
  index_t length_ = 0;
  std::string model_;
  std::string rates_file_;
  bool calibrate_ = false;
  std::string scratch_;
  std::string json_;
  std::string emit_;
  std::string tokens_;
  std::string out_;
  std::string home_;
  po::options_description job_only_;
  QuantizeOptions job_options_;
  LayerArguments arguments_;
  RunArguments run_;
};

}  // namespace

std::unique_ptr<Command> make_plan_command() { return std::make_unique<PlanCommand>(); }

}  // namespace quip::cli
