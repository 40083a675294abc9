#include "run_arguments.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <unistd.h>

#include "command.hpp"
#include <omp.h>

#include "quip/backend/cuda_backend.hpp"
#include "quip/core/error.hpp"

namespace quip::cli {

void RunArguments::declare(po::options_description& options) {
  options.add_options()("threads", number_or("auto", "threads", "N", threads),
                        "OpenMP threads per rank");
  options.add_options()("config", po::value<std::string>()->value_name("FILE"),
                        "more options, one `name=value` a line; the command line wins");
}

void RunArguments::declare_for_ranks(po::options_description& options) {
  const auto check = [](const std::string& text) { parse_number<double>(text, 0, 1e9); };
  options.add_options()(
      Command::stall_timeout_option,
      value_of(Command::stall_timeout_option, "SECONDS", check)
          ->default_value(fmt::format("{}", default_stall_timeout)),
      "end the job if a rank keeps the others waiting for so long; above the time of the longest "
      "single step; 0: never");
}

void RunArguments::declare_with_backend(po::options_description& options) {
  options.add_options()("backend", text(backend_, "NAME")->default_value("auto"),
                        "auto, cpu or cuda");
  declare_for_ranks(options);
  declare(options);
}

void RunArguments::declare_with_model(po::options_description& options, const char* unit,
                                      const char* help) {
  options.add_options()(unit, number_or("all", unit, "N", count), help);
  options.add_options()("allow-unused", po::bool_switch(&allow_unused),
                        "go on if blocks hold tensors that their family does not have");
  const auto take = [this](const std::string& text) { progress_ = parse_progress(text); };
  options.add_options()("progress", value_of("progress", "STYLE", take)->default_value("auto"),
                        "auto, bar, lines or none");
  declare_with_backend(options);
}

int RunArguments::use_threads(int node_size) const {
  int used = threads;
  if (used == 0) {
    used = omp_get_max_threads();
    const bool unbound = omp_get_num_procs() >= sysconf(_SC_NPROCESSORS_ONLN);
    if (std::getenv("OMP_NUM_THREADS") == nullptr && unbound) {
      used = std::max(1, used / node_size);
    }
  }
  omp_set_num_threads(used);
  return used;
}

std::unique_ptr<Backend> RunArguments::make_backend(Collectives& comm, int used) const {
  const NodePlace place = comm.place();
  std::unique_ptr<Backend> backend;
  agree(comm, [&] {
    backend = quip::make_backend(backend_, used, {place.machine_rank, place.machine_size});
  });
  const bool device = backend->memory().has_value();
  std::array<float, 2> kinds{device ? 1.0F : 0.0F, device ? 0.0F : 1.0F};
  comm.all_reduce_max(kinds);
  agree(comm, [&] {
    if (kinds[0] + kinds[1] < 2) return;
    fail("--backend {}: some ranks have a GPU and others none; use nodes that are alike, or cpu",
         backend_);
  });
  if (backend_ == "auto" && cuda_is_built() && !device && comm.rank() == 0) {
    fmt::print(stderr, "quip: no GPU on this node: the CPU does everything\n");
  }
  return backend;
}

}  // namespace quip::cli
