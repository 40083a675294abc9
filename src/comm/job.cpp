#include "quip/comm/job.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "quip/core/error.hpp"

namespace quip {
namespace {

/// Ends the job for an error that the other ranks, perhaps waiting in a collective, do not know.
[[noreturn]] void end_for_all(std::optional<MpiCollectives>& comm, const std::exception& error) {
  if (!comm) {
    report_error(message_of(error));
  } else if (comm->speaks_for_failure()) {
    report_error(comm->size() == 1 ? message_of(error)
                                   : fmt::format("rank {}: {}", comm->rank(), message_of(error)));
  } else {
    // The rank that speaks ends this one too; if it is lost meanwhile, this one ends the job.
    std::this_thread::sleep_for(std::chrono::seconds(10));
  }
  abort_job(exit_failure);
}

}  // namespace

void report_error(const std::string& message) {
  fmt::print(stderr, "quip: error: {}\n", message);
  std::fflush(stderr);
}

void abort_job(int status) {
  std::fflush(stdout);
  MPI_Abort(MPI_COMM_WORLD, status);
  std::abort();  // MPI_Abort does not return
}

int run_job(int argc, char** argv, const std::function<int(MpiCollectives&)>& work) {
  const MpiEnvironment environment(&argc, &argv);
  std::optional<MpiCollectives> comm;
  try {
    comm.emplace();
    return work(*comm);
  } catch (const AgreedError& error) {
    if (comm->rank() == 0) report_error(error.what());
    return exit_failure;
  } catch (const std::exception& error) {
    end_for_all(comm, error);
  }
}

}  // namespace quip
