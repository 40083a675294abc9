#include "evaluation_command.hpp"

namespace quip::cli {

EvaluationCommand::EvaluationCommand(std::string name, std::string summary)
    : Command(std::move(name), std::move(summary)) {
  options_.add_options()("model", model_directory(model_, "DIR"),
                         "Hugging Face directory (with --packed: optional, checked to match)");
  options_.add_options()("packed", text(packed_, "DIR"), "evaluate this packed model");
}

void EvaluationCommand::declare_run(const char* unit, const char* help) {
  options_.add_options()("json", po::bool_switch(&json_), "print JSON");
  run_.declare_with_model(options_, unit, help);
}

void EvaluationCommand::check() {
  if (model_.empty() && packed_.empty()) {
    throw UsageError("give --model DIR, or --packed DIR, or both");
  }
}

int EvaluationCommand::run(Collectives& comm, int node_size) {
  const std::unique_ptr<Backend> backend = run_.make_backend(comm, run_.use_threads(node_size));
  Progress progress = run_.progress(comm);
  evaluate(comm, *backend, progress);
  return EXIT_SUCCESS;
}

}  // namespace quip::cli
