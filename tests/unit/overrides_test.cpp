#include "quip/quant/options/overrides.hpp"

#include <string>

#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::overrides_test {
namespace {

std::string complaint(const std::string& rule) {
  Overrides overrides;
  try {
    overrides.add(rule);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(Overrides, ChangeOnlyLayersThatMatch) {
  Overrides overrides;
  overrides.add("down_proj:bits=4,method=optq,damp=0.05");
  const LayerOptions down = overrides.apply({}, "model.layers.3.mlp.down_proj");
  EXPECT_EQ(down.bits, 4);
  EXPECT_EQ(down.method, Method::optq);
  EXPECT_EQ(down.damping, 0.05);
  const LayerOptions up = overrides.apply({}, "model.layers.3.mlp.up_proj");
  EXPECT_EQ(up.bits, 2);
  EXPECT_EQ(up.method, Method::ldlq);
}

TEST(Overrides, TheLaterRuleWins) {
  Overrides overrides;
  overrides.add("proj:bits=3");
  overrides.add("layers\\.0\\.:bits=8,transform=none,rho=2.4");
  const LayerOptions first = overrides.apply({}, "model.layers.0.q_proj");
  EXPECT_EQ(first.bits, 8);
  EXPECT_EQ(first.effective_transform(), TransformKind::none);
  EXPECT_EQ(first.rho, 2.4);
  EXPECT_EQ(overrides.apply({}, "model.layers.1.q_proj").bits, 3);
  EXPECT_EQ(overrides.rules().size(), 2U);
}

TEST(Overrides, APatternMayHoldColons) {
  Overrides overrides;
  overrides.add("(?:q|k)_proj:bits=4");
  EXPECT_EQ(overrides.apply({}, "k_proj").bits, 4);
}

TEST(Overrides, TakeWhatTheCommandLineTakes) {
  Overrides overrides;
  overrides.add("down_proj:processing=baseline,seed=7,order=auto,group-size=row");
  const LayerOptions down = overrides.apply({}, "down_proj");
  EXPECT_EQ(down.effective_transform(), TransformKind::none);
  EXPECT_EQ(down.seed, 7U);
  EXPECT_NE(complaint("x:damp=1e300").find("damp=1e300: must be 0 to 1000000"), std::string::npos);
}

// Statistics of a few layers: all of a large model take hours.
TEST(Overrides, MayAskForStatistics) {
  Overrides overrides;
  overrides.add("layers.0.down_proj:statistics=on");
  EXPECT_TRUE(overrides.apply({}, "layers.0.down_proj").spectra);
  EXPECT_FALSE(overrides.apply({}, "layers.1.down_proj").spectra);
}

TEST(Overrides, EveryRuleMatchesALayer) {
  Overrides overrides;
  overrides.add("down_proj:bits=4");
  overrides.add("lm_head:bits=8");
  EXPECT_NO_THROW(overrides.check_used({"layers.0.down_proj", "lm_head"}));
  try {
    overrides.check_used({"layers.0.q_proj", "layers.0.down_proj"});
    FAIL();
  } catch (const Error& error) {
    const std::string says = error.what();
    EXPECT_NE(says.find("--override 'lm_head:bits=8' matches no layer"), std::string::npos) << says;
    EXPECT_NE(says.find("layers.0.q_proj"), std::string::npos) << says;
  }
}

TEST(Overrides, BadRulesNameTheRuleAndTheTrouble) {
  EXPECT_NE(complaint("down_proj").find("REGEX:option=value"), std::string::npos);
  EXPECT_NE(complaint("(:bits=4").find("regular expression"), std::string::npos);
  EXPECT_NE(complaint("x:bits=9").find("2, 3, 4 or 8"), std::string::npos);
  EXPECT_NE(complaint("x:bits=4x").find("not a non-negative number"), std::string::npos);
  EXPECT_NE(complaint("x:colour=red").find("unknown option 'colour'"), std::string::npos);
  EXPECT_NE(complaint("x:method=best").find("ldlq"), std::string::npos);
  EXPECT_NE(complaint("x:bits").find("'bits' is not option=value"), std::string::npos);
  EXPECT_NE(complaint("x:").find("is not option=value"), std::string::npos);
}

TEST(Overrides, CombinationsWithoutMeaningNameTheLayer) {
  Overrides overrides;
  overrides.add("q_proj:method=optq,passes=3");
  EXPECT_THROW(static_cast<void>(overrides.apply({}, "q_proj")), Error);
  EXPECT_NO_THROW(static_cast<void>(overrides.apply({}, "k_proj")));
  Overrides grid;
  grid.add("q_proj:grid=minmax,rho=2");
  EXPECT_THROW(static_cast<void>(grid.apply({}, "q_proj")), Error);
}

}  // namespace
}  // namespace quip::overrides_test
