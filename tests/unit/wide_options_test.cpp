// What goes with wide layers, and what is said where it does not.
#include "quip/pipeline/wide_options.hpp"

#include <string>
#include <vector>

#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::wide_options_test {
namespace {

std::string complaint(const WideOptions& wide, const LayerOptions& options, index_t cols,
                      int ranks) {
  try {
    wide.check("blocks.3.down_proj", cols, options, ranks);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(WideOptions, TakeMethodsThatNeedTheFactorOnly) {
  WideOptions wide;
  wide.inputs = 512;
  for (const Method method : {Method::nearest, Method::ldlq}) {
    LayerOptions options = scalar_options();
    options.method = method;
    options.rounding = Rounding::stochastic;
    EXPECT_EQ(complaint(wide, options, 768, 2), "") << to_string(method);
  }
  for (const Method method :
       {Method::optq, Method::ldlq_rg, Method::greedy, Method::ldl_admm, Method::ldlq}) {
    LayerOptions options = scalar_options();
    options.method = method;
    options.passes = 2;
    const std::string line = complaint(wide, options, 768, 2);
    EXPECT_NE(line.find("--method " + to_string(method)), std::string::npos) << line;
    EXPECT_NE(line.find("--wide 512"), std::string::npos) << line;
    EXPECT_NE(line.find("blocks.3.down_proj"), std::string::npos) << line;
  }
  LayerOptions spectra;
  spectra.spectra = true;
  EXPECT_NE(complaint(wide, spectra, 768, 2).find("--statistics"), std::string::npos);
}

TEST(WideOptions, TakeGridsThatFit) {
  WideOptions wide;
  wide.inputs = 0;
  wide.process_grid = GridShape{3, 2};
  EXPECT_EQ(complaint(wide, {}, 768, 6), "");
  EXPECT_EQ(complaint(wide, {}, 768, 9), "");
  const std::string few = complaint(wide, {}, 768, 4);
  EXPECT_NE(few.find("--process-grid 3x2: needs 6 ranks and this job has 4"), std::string::npos)
      << few;
  // 256 inputs are two blocks of 128: fewer than three rows of ranks.
  const std::string narrow = complaint(wide, {}, 256, 6);
  EXPECT_NE(narrow.find("--process-grid 3x2"), std::string::npos) << narrow;
  EXPECT_NE(narrow.find("2 blocks of 128"), std::string::npos) << narrow;
}

// Hessians of 1, 4 and 9 units of 8·1024² bytes = 8 MiB.
TEST(WideOptions, NameTheWidthThatANodeHasNoMemoryFor) {
  const WideOptions wide;
  const std::vector<index_t> orders{2048, 1024, 3072};
  const double unit = 8.0 * 1024 * 1024;
  const auto complaint_of = [&](double units, int ranks) -> std::string {
    try {
      wide.check_memory(orders, units * unit, ranks);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(complaint_of(14, 1), "");
  EXPECT_EQ(complaint_of(28, 2), "");
  const std::string one = complaint_of(13.9, 1);
  EXPECT_NE(one.find("take 112.0 MiB on each rank, and 1 rank shares the 111.2 MiB"),
            std::string::npos)
      << one;
  EXPECT_NE(one.find("--wide 3072"), std::string::npos) << one;
  // 20 units for four ranks: five for each hold the narrower two.
  EXPECT_NE(complaint_of(20, 4).find("--wide 3072"), std::string::npos);
  EXPECT_NE(complaint_of(19, 4).find("--wide 2048"), std::string::npos);
  EXPECT_NE(complaint_of(3, 4).find("--wide 1024"), std::string::npos);
}

TEST(WideOptions, SpreadOverTheRanksThereAre) {
  WideOptions wide;
  EXPECT_FALSE(wide.covers(28672));
  EXPECT_TRUE(wide.covers(53248));
  EXPECT_EQ(to_string(wide.layout(53248, 12).grid), "4x3");
  wide.process_grid = GridShape{2, 1};
  EXPECT_EQ(to_string(wide.layout(53248, 12).grid), "2x1");
}

}  // namespace
}  // namespace quip::wide_options_test
