#include "command.hpp"
#include "model_arguments.hpp"
#include "run_arguments.hpp"
#include <nlohmann/json.hpp>

#include "quip/pipeline/evaluate.hpp"

namespace quip::cli {
namespace {

namespace po = boost::program_options;

class EvalCommand final : public Command {
 public:
  EvalCommand() : Command("eval", "Perplexity of a checkpoint, or of a packed model.") {
    model_.declare(options_);
    options_.add_options()("tokens", po::value(&tokens_)->required()->value_name("FILE"),
                           "evaluation tokens: HDF5 with input_ids [samples, length]");
    options_.add_options()("json", po::bool_switch(&json_), "print JSON");
    run_.declare_with_model(options_, "samples", "use the first N samples of the token set");
  }

  void check() override { model_.check(); }

  int run(Collectives& comm, int node_size) override {
    const int threads = run_.use_threads(node_size);
    const std::unique_ptr<Backend> backend = run_.make_backend(comm, threads);
    Progress progress = run_.progress(comm);
    const Perplexity result = evaluate(
        comm, *backend,
        {model_.model(), model_.packed(), tokens_, run_.count(), run_.allow_unused()}, progress);
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
  ModelArguments model_;
  std::string tokens_;
  RunArguments run_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace quip::cli
