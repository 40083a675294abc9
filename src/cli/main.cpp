// quip: the program. Picks a subcommand; here and in run_job is where errors end.
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "command.hpp"
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "quip/comm/job.hpp"
#include "quip/linalg/blas.hpp"

namespace {

using quip::exit_failure;
using quip::exit_usage;
using quip::report_error;
using quip::cli::Command;

std::vector<std::unique_ptr<Command>> make_commands() {
  using namespace quip::cli;
  std::vector<std::unique_ptr<Command>> commands;
  for (const auto make :
       {make_quantize_command, make_quantize_layer_command, make_eval_command,
        make_eval_tasks_command, make_inspect_command, make_export_command, make_plan_command}) {
    commands.push_back(make());
  }
  return commands;
}

std::string overview(const std::vector<std::unique_ptr<Command>>& commands) {
  std::string text = "usage: [mpirun -n P] quip COMMAND [options]\n\ncommands:\n";
  for (const auto& command : commands) {
    text += fmt::format("  {:<15} {}\n", command->name(), command->summary());
  }
  return text + "\nquip COMMAND --help shows a command's options; quip --version the version.\n";
}

/// True if this is rank 0, as far as the launcher tells before MPI is up. Help is printed once.
bool launched_first() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* rank = std::getenv(name)) return std::string(rank) == "0";
  }
  return true;
}

/// Returns this rank's status after a mistake on the command line. Launchers kill a job as soon as
/// one rank fails: only rank 0 does, when it has spoken.
int usage_status() { return launched_first() ? exit_usage : EXIT_SUCCESS; }

/// Throws Error if what was printed did not reach its file: on a full disk, say.
void require_output_written() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  quip::fail("standard output: cannot write: {}; what was printed is lost",
             std::generic_category().message(errno));
}

int run_parallel(Command& command, int argc, char** argv) {
  return quip::run_job(argc, argv, [&](quip::MpiCollectives& comm) {
    comm.set_stall_timeout(command.stall_timeout());
    if (comm.rank() == 0 && !comm.why_not_shared().empty()) {
      fmt::print(stderr, "quip: each rank holds a block's weights for itself: {}\n",
                 comm.why_not_shared());
    }
    const int status = command.run(comm, comm.node_size());
    if (status == EXIT_SUCCESS) quip::agree(comm, require_output_written);
    return status;
  });
}

int dispatch(int argc, char** argv) {
  const auto commands = make_commands();
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const std::string first = arguments.empty() ? "" : arguments[0];
  if (first == "--version") {
    if (launched_first()) fmt::print("quip {}\n", QUIP_VERSION);
    return EXIT_SUCCESS;
  }
  for (const auto& command : commands) {
    if (command->name() != first) continue;
    try {
      if (!command->parse({arguments.begin() + 1, arguments.end()})) {
        if (launched_first()) fmt::print("{}", command->help());
        return EXIT_SUCCESS;
      }
    } catch (const quip::cli::UsageError& error) {
      if (launched_first()) report_error(error.what());
      return usage_status();
    }
    if (command->parallel()) return run_parallel(*command, argc, argv);
    quip::SelfCollectives self;
    return command->run(self, 1);
  }
  const bool asked = first == "--help" || first == "-h" || first == "help";
  if (launched_first()) {
    if (!asked && !first.empty()) report_error(fmt::format("unknown command '{}'", first));
    fmt::print(asked ? stdout : stderr, "{}", overview(commands));
  }
  return asked ? EXIT_SUCCESS : usage_status();
}

/// Gives buffers back to the system when they are freed. Left alone, the C library learns from the
/// first large ones to keep such memory, and a run's peak creeps up by a tenth, block by block.
void return_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 2 << 20);
  mallopt(M_TRIM_THRESHOLD, 8 << 20);  // pages of smaller buffers, which come and go by the sample
#endif
}

/// Makes warnings look like the other messages and go where they go: standard output is for
/// results.
void log_like_messages() {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("quip"));
  spdlog::set_pattern("%n: %v");
}

}  // namespace

int main(int argc, char** argv) {
  return_freed_memory();
  log_like_messages();
  // A file-size limit becomes a failed write with a message instead of a signal.
  std::signal(SIGXFSZ, SIG_IGN);
  quip::restart_with_fitting_blas_kernels(argv);
  try {
    const int status = dispatch(argc, argv);
    if (status == EXIT_SUCCESS) require_output_written();
    return status;
  } catch (const std::exception& error) {
    report_error(quip::message_of(error));
    return exit_failure;
  }
}
