// How jobs end in which a rank goes wrong: soon, with one line that says why, and a status.
// Jobs that abort take their launcher with them, so each is a process of its own.
#include <array>
#include <chrono>
#include <cstdio>
#include <regex>
#include <string>
#include <sys/wait.h>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quip/comm/job.hpp"

namespace quip {
namespace {

struct Outcome {
  int status = -1;
  double seconds = 0;
  std::vector<std::string> errors;  ///< lines that are the program's own
};

Outcome run(const std::string& mode, int ranks, double timeout) {
  const std::string command = fmt::format("timeout -k 5 40 {} -n {} {} {} {} 2>&1", QUIP_MPIEXEC,
                                          ranks, QUIP_BROKEN_JOB, mode, timeout);
  Outcome outcome;
  const auto start = std::chrono::steady_clock::now();
  std::FILE* output = ::popen(command.c_str(), "r");
  if (output == nullptr) return outcome;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), line.size(), output) != nullptr) {
    const std::string text = line.data();
    if (text.find("quip: error:") != std::string::npos) outcome.errors.push_back(text);
  }
  const int status = ::pclose(output);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

/// The one line of a job that must end with `status` within `seconds`.
std::string line_of(const Outcome& outcome, int status, double seconds) {
  EXPECT_EQ(outcome.status, status);
  EXPECT_LT(outcome.seconds, seconds);
  EXPECT_EQ(outcome.errors.size(), 1U);
  return outcome.errors.empty() ? "" : outcome.errors.front();
}

testing::AssertionResult contains(const std::string& line, const std::string& pattern) {
  if (std::regex_search(line, std::regex(pattern))) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no '" << pattern << "' in: " << line;
}

// Timeout, roll call, and what mpirun takes to start and to kill.
constexpr double soon = 10;

TEST(StalledJob, NamesTheRankThatSleepsAndWhatItWasAt) {
  const std::string line = line_of(run("one-sleeps", 3, 1), exit_stalled, soon);
  EXPECT_TRUE(contains(line,
                       "rank 0 \\(host [^)]+\\) has waited [12] s in all-reduce, phase 'round', "
                       "without progress; rank 1 \\(host [^)]+\\) is missing from it, last seen "
                       "[0-9]+ s ago in phase 'factor' \\(block 2 of 4, factor down_proj\\) "
                       "\\(--stall-timeout 1\\)"));
}

TEST(StalledJob, NamesARankThatIsStopped) {
  const std::string line = line_of(run("one-stops", 4, 1), exit_stalled, soon);
  EXPECT_TRUE(contains(line,
                       "; rank 2 \\(host [^)]+\\) is missing from it, last seen .* in phase "
                       "'factor' \\(block 2 of 4, factor down_proj\\)"));
  EXPECT_FALSE(contains(line, "rank [13]"));
}

TEST(StalledJob, TheSecondWitnessSpeaksForTheFirst) {
  const std::string line = line_of(run("first-stops", 3, 1), exit_stalled, soon);
  EXPECT_TRUE(contains(line, "error: rank 1 .*; rank 0 .* in phase 'factor' \\(block 2 of 4"));
}

TEST(StalledJob, WithoutWitnessesTheLowestRankNamesThoseMissing) {
  const std::string line = line_of(run("both-witnesses-stop", 4, 1), exit_stalled, soon);
  EXPECT_TRUE(
      contains(line, "error: rank 2 .*; rank 0 .* is missing from it; rank 1 .* is missing"));
}

TEST(StalledJob, NamesARankThatHasLeft) {
  const std::string line = line_of(run("one-leaves", 3, 1), exit_stalled, soon);
  EXPECT_TRUE(contains(line, "in barrier, .*; rank 1 .* waits in another one, shutdown"));
}

TEST(StalledJob, WorkWithinTheTimeoutIsNoStall) {
  const Outcome outcome = run("one-is-slow", 3, 3);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_TRUE(outcome.errors.empty());
}

TEST(StalledJob, TimeInWhichTheJobItselfIsSuspendedDoesNotCount) {
  const Outcome outcome = run("all-are-suspended", 3, 3);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_TRUE(outcome.errors.empty());
  EXPECT_GT(outcome.seconds, 5);
}

TEST(FailedJob, AnErrorOutsideAgreeEndsAllRanks) {
  const std::string line = line_of(run("one-throws", 3, 0), exit_failure, soon);
  EXPECT_TRUE(contains(line, "^quip: error: rank 2: out of memory; "));
}

TEST(FailedJob, WhatAllRanksThrowIsSaidOnce) {
  const std::string line = line_of(run("all-throw", 4, 0), exit_failure, soon);
  EXPECT_EQ(line, "quip: error: rank 0: the same on all\n");
}

TEST(FailedJob, WhatSomeRanksThrowIsSaidByTheLowest) {
  const std::string line = line_of(run("upper-ranks-throw", 4, 0), exit_failure, soon);
  EXPECT_EQ(line, "quip: error: rank 1: not on rank 0\n");
}

TEST(FailedJob, AnErrorInAgreeIsEveryRanks) {
  const std::string line = line_of(run("one-fails-in-agree", 3, 0), exit_failure, soon);
  EXPECT_EQ(line, "quip: error: only rank 1 knows\n");
}

TEST(FailedJob, ANumericalFailureOfTheOwnerIsEveryRanks) {
  const std::string line = line_of(run("one-cannot-factorise", 3, 0), exit_failure, soon);
  EXPECT_TRUE(contains(line, "^quip: error: layer layer: the Hessian is not positive definite"));
}

TEST(FailedJob, AnErrorOfMpiIsOneLine) {
  const std::string line = line_of(run("lengths-differ", 2, 5), exit_failure, soon);
  EXPECT_TRUE(contains(line, "rank 1: broadcast failed in start-up: MPI_ERR_TRUNCATE"));
}

}  // namespace
}  // namespace quip
