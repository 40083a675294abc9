// A program on all ranks: from MPI's start to its end, however it ends.
#pragma once

#include <functional>
#include <string>

#include "quip/comm/mpi_collectives.hpp"

namespace quip {

/// Exit statuses of a job; 0 is success.
constexpr int exit_failure = 1;  ///< an error, said in one line
constexpr int exit_usage = 2;    ///< a mistake on the command line
constexpr int exit_stalled = 3;  ///< a collective made no progress for --stall-timeout seconds

/// Writes "quip: error: message", one line, to stderr.
void report_error(const std::string& message);

/// Ends every rank of the job at once.
[[noreturn]] void abort_job(int status);

/// Runs `work` on every rank and returns the exit status. The one place where the errors of ranks
/// end: an AgreedError is said by rank 0 and all ranks return exit_failure; for any other error the
/// rank that has it says so, the lowest if there are several, and aborts the job.
[[nodiscard]] int run_job(int argc, char** argv, const std::function<int(MpiCollectives&)>& work);

}  // namespace quip
