#include "command.hpp"
#include <nlohmann/json.hpp>

#include "quip/pipeline/evaluate.hpp"

namespace quip::cli {
namespace {

namespace po = boost::program_options;

class EvalCommand final : public Command {
 public:
  EvalCommand() : Command("eval", "Perplexity of a checkpoint, or of a packed model.") {
    options_.add_options()("model", po::value(&model_)->value_name("DIR"),
                           "Hugging Face directory (with --packed: optional, checked to match)");
    options_.add_options()("packed", po::value(&packed_)->value_name("DIR"),
                           "evaluate this packed model");
    options_.add_options()("tokens", po::value(&tokens_)->required()->value_name("FILE"),
                           "evaluation tokens: HDF5 with input_ids [samples, length]");
    options_.add_options()("samples",
                           po::value(&samples_)->default_value(0, "all")->value_name("N"),
                           "use the first N samples of the token set");
    options_.add_options()("json", po::bool_switch(&json_), "print JSON");
    options_.add_options()("threads",
                           po::value(&threads_)->default_value(0, "auto")->value_name("N"),
                           "OpenMP threads per rank");
    options_.add_options()("backend",
                           po::value(&backend_)->default_value("auto")->value_name("NAME"),
                           "auto, cpu or cuda");
    options_.add_options()("progress",
                           po::value(&progress_)->default_value("auto")->value_name("STYLE"),
                           "auto, bar, lines or none");
    options_.add_options()("config", po::value<std::string>()->value_name("FILE"),
                           "more options, one `name=value` a line; the command line wins");
  }

  void check() override {
    if (model_.empty() && packed_.empty()) {
      throw UsageError("give --model DIR, or --packed DIR, or both");
    }
    if (given("samples") && samples_ < 1) {
      throw UsageError(fmt::format("--samples {}: must be positive", samples_));
    }
    static_cast<void>(parse_progress(progress_));
  }

  int run(Collectives& comm, int node_size) override {
    const int threads = choose_threads(threads_, node_size);
    std::unique_ptr<Backend> backend;
    agree(comm, [&] { backend = make_backend(backend_, threads); });
    Progress progress(parse_progress(progress_), comm.rank());
    const Perplexity result =
        evaluate(comm, *backend, {model_, packed_, tokens_, samples_}, progress);
    if (comm.rank() != 0) return EXIT_SUCCESS;
    if (json_) {
      const nlohmann::json out = {{"perplexity", result.value()},
                                  {"mean_loss", result.mean_loss},
                                  {"tokens", result.tokens}};
      fmt::print("{}\n", out.dump());
    } else {
      fmt::print("perplexity {:.4f}  (mean loss {:.6f} over {} tokens)\n", result.value(),
                 result.mean_loss, result.tokens);
    }
    return EXIT_SUCCESS;
  }

 private:
  std::string model_;
  std::string packed_;
  std::string tokens_;
  index_t samples_ = 0;
  bool json_ = false;
  int threads_ = 0;
  std::string backend_;
  std::string progress_;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace quip::cli
