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
    options_.add_options()(
        "against", model_directory(against_, "DIR"),
        "also compare the predictions with those of this checkpoint, of which the "
        "packed model was made: its perplexity, KL divergence, top-1 agreement");
    declare_run("samples", "use the first N samples of the token set");
  }

 private:
  void evaluate(Collectives& comm, Backend& backend, Progress& progress) override {
    if (!against_.empty()) return compare(comm, backend, progress);
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

  void compare(Collectives& comm, Backend& backend, Progress& progress) const {
    const Comparison result = quip::compare(
        comm, backend, {model_, packed_, tokens_, run_.count, run_.allow_unused, against_},
        progress);
    if (comm.rank() != 0) return;
    if (json_) {
      const nlohmann::json out = {{"perplexity", result.model.value()},
                                  {"mean_loss", result.model.mean_loss},
                                  {"tokens", result.model.tokens},
                                  {"against",
                                   {{"perplexity", result.reference.value()},
                                    {"mean_loss", result.reference.mean_loss},
                                    {"divergence", result.divergence},
                                    {"agreement", result.agreement}}}};
      fmt::print("{}\n", out.dump());
    } else {
      fmt::print(
          "perplexity {:.4f}, of the other {:.4f}  (mean losses {:.6f} and {:.6f} over {} tokens)\n"
          "KL divergence {:.6f} nats a token, top-1 agreement {:.2f} %\n",
          result.model.value(), result.reference.value(), result.model.mean_loss,
          result.reference.mean_loss, result.model.tokens, result.divergence,
          100 * result.agreement);
    }
  }

  std::string tokens_;
  std::string against_;
};

}  // namespace

std::unique_ptr<Command> make_eval_command() { return std::make_unique<EvalCommand>(); }

}  // namespace quip::cli
