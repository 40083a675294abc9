#include "quip/comm/stall_report.hpp"

#include <gtest/gtest.h>

#include "quip/core/activity.hpp"
#include "quip/core/phases.hpp"

namespace quip::stall_report_test {
namespace {

Stall waiting() {
  Stall stall;
  stall.rank = 0;
  stall.host = "n1";
  stall.collective = "all-reduce";
  stall.activity = "phase 'hessian'";
  stall.seconds = 60.2;
  stall.timeout = 60;
  return stall;
}

TEST(StallReport, NamesTheMissingRankAndWhatItWasLastSeenAt) {
  Stall stall = waiting();
  stall.missing.push_back({3, "n2", "", "phase 'factor' (block 2 of 8, factor down_proj)", 31.4});
  stall.elsewhere.push_back({2, "n2", "broadcast", "", 0});  // waits for rank 3 like the others
  EXPECT_EQ(describe(stall),
            "rank 0 (host n1) has waited 60 s in all-reduce, phase 'hessian', without progress; "
            "rank 3 (host n2) is missing from it, last seen 31 s ago in phase 'factor' (block 2 of "
            "8, factor down_proj) (--stall-timeout 60)");
}

TEST(StallReport, CountsTheRestOfManyMissingRanks) {
  Stall stall = waiting();
  for (int r = 1; r <= 5; ++r) stall.missing.push_back({r, "n", "", "", 0});
  EXPECT_EQ(describe(stall),
            "rank 0 (host n1) has waited 60 s in all-reduce, phase 'hessian', without progress; "
            "rank 1 (host n) is missing from it; rank 2 (host n) is missing from it; rank 3 (host "
            "n) is missing from it; and 2 more (--stall-timeout 60)");
}

TEST(StallReport, NamesAnotherCollective) {
  Stall stall = waiting();
  stall.elsewhere.push_back({1, "n2", "barrier", "start-up", 2});
  EXPECT_EQ(describe(stall),
            "rank 0 (host n1) has waited 60 s in all-reduce, phase 'hessian', without progress; "
            "rank 1 (host n2) waits in another one, barrier, last seen 2 s ago in start-up "
            "(--stall-timeout 60)");
}

TEST(StallReport, BlamesTheNetworkWhenAllAreThere) {
  EXPECT_EQ(describe(waiting()),
            "rank 0 (host n1) has waited 60 s in all-reduce, phase 'hessian', without progress; "
            "all ranks have entered it, so the network or the MPI library is at fault "
            "(--stall-timeout 60)");
}

TEST(Activity, FollowsPhasesInsideOneAnotherAndTellsOfEachChange) {
  Activity& activity = Activity::current();
  int changes = 0;
  activity.listen([&] { ++changes; });
  EXPECT_EQ(activity.describe(), "start-up");
  Phases phases;
  {
    auto outer = phases.measure("round");
    {
      auto inner = phases.measure("write");
      activity.set_unit("block 1 of 2");
      EXPECT_EQ(activity.describe(), "phase 'write' (block 1 of 2)");
    }
    EXPECT_EQ(activity.describe(), "phase 'round' (block 1 of 2)");
  }
  EXPECT_EQ(activity.describe(), "block 1 of 2");
  EXPECT_EQ(changes, 5);
  activity.listen({});
  activity.set_unit("");
  EXPECT_EQ(changes, 5);
}

}  // namespace
}  // namespace quip::stall_report_test
