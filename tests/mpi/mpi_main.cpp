// Runs the tests of the files named on the command line, or all, with one readable report from all
// ranks: rank 0 prints as usual, the others only their failures.
#include <cstdio>
#include <memory>

#include "support/of_sources.hpp"
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quip/comm/mpi_collectives.hpp"

namespace {

class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    fmt::print(stderr, "rank {}: {}:{}: {}\n", rank_,
               result.file_name() != nullptr ? result.file_name() : "?", result.line_number(),
               result.message());
  }
  int rank_;
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  quip::test::select_tests_of_sources(argc, argv);
  const quip::MpiEnvironment environment(&argc, &argv);
  quip::MpiCollectives comm;
  if (comm.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter(comm.rank()));
  }
  auto status = static_cast<float>(RUN_ALL_TESTS());
  comm.all_reduce_max(std::span(&status, 1));
  return status == 0 ? 0 : 1;
}
