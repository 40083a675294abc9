// The common part of the commands that evaluate a model: which model, on which backend.
#pragma once

#include <string>

#include "command.hpp"
#include "run_arguments.hpp"

namespace quip::cli {

class EvaluationCommand : public Command {
 public:
  void check() override;
  int run(Collectives& comm, int node_size) override;

 protected:
  /// Declares --model and --packed.
  EvaluationCommand(std::string name, std::string summary);
  /// Declares --json, --`unit` with its help, and how to run.
  void declare_run(const char* unit, const char* help);
  /// Evaluates the model (collective) and prints the result on rank 0.
  virtual void evaluate(Collectives& comm, Backend& backend, Progress& progress) = 0;

  std::string model_;  ///< empty: not given
  std::string packed_;
  bool json_ = false;
  RunArguments run_;
};

}  // namespace quip::cli
