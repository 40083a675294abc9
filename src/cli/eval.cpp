#include "evaluation_command.hpp"
#include <nlohmann/json.hpp>

#include "quip/pipeline/evaluate.hpp"

namespace quip::cli {
namespace {

class EvalCommand final : public EvaluationCommand {
 public:
  EvalCommand() : EvaluationCommand("eval", "Perplexity of a checkpoint, or of a packed model.") {
    options_.add_options()("tokens", text(tokens_, "FILE")->required(),
                           "evaluation tokens: HDF5 with input_ids [samples, length]");
    declare_run("samples", "use the first N samples of the token set");
  }

 private:
  void evaluate(Collectives& comm, Backend& backend, Progress& progress) override {
    const Perplexity result = quip::evaluate(
        comm, backend, {model_, packed_, tokens_, run_.count, run_.allow_unused}, progress);
    if (comm.rank() != 0) return;
    if (json_) {
      const nlohmann::json out = {{"perplexity", result.value()},
                                  {"mean_loss", result.mean_loss},
                                  {"tokens", result.tokens}};
      fmt::print("{}\n", out.dump());
    } else {
      fmt::print("perplexity {:.4f}  (mean loss {:.6f} over {} tokens)\n", result.value(),
                 result.mean_loss, result.tokens);
    }
  }

  std::string tokens_;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace quip::cli
