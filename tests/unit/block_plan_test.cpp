// Plans: what is derived from a list of operations.
#include "quip/model/block_plan.hpp"

#include <string>
#include <vector>

#include "model/plan_builder.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::test::block_plan_test {
namespace {

using ::testing::ElementsAre;

ModelConfig config_of_width_8() {
  ModelConfig c;
  c.hidden = 8;
  c.intermediate = 20;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 2;
  return c;
}

/// One linear makes what two others read, the second of them only after the first's result was
/// read by a third: two activations are carried over the taps in between.
TEST(BlockPlan, CarriesWhatLaterStagesNeed) {
  const ModelConfig config = config_of_width_8();
  BlockBuilder builder(config, 0, "layers.");
  const Slot x = builder.rms_norm("norm", builder.residual());
  const Slot a = builder.linear("a", x, 3, false);
  const Slot b = builder.linear("b", x, 5, false);
  const Slot c = builder.linear("c", a, 20, false);
  builder.activate(c);
  builder.add_to_residual("d", c, false);
  builder.add_to_residual("e", b, true);
  const BlockPlan plan = builder.finish();

  ASSERT_EQ(plan.taps.size(), 4U);
  EXPECT_THAT(plan.taps[0].carried, ElementsAre(x));
  EXPECT_THAT(plan.taps[1].carried, ElementsAre(a, b));
  EXPECT_THAT(plan.taps[2].carried, ElementsAre(b, c));
  EXPECT_THAT(plan.taps[3].carried, ElementsAre(b));
  std::vector<int> taps;
  for (const LinearSpec& linear : plan.linears) taps.push_back(linear.tap);
  EXPECT_THAT(taps, ElementsAre(0, 0, 1, 2, 3));
  EXPECT_EQ(plan.linears[4].name, "layers.0.e");
  EXPECT_EQ(plan.linears[4].type, "e");

  // b stands beside a (3 columns), and c beyond both.
  EXPECT_EQ(plan.columns[at(x)], 0);
  EXPECT_EQ(plan.columns[at(a)], 0);
  EXPECT_EQ(plan.columns[at(b)], 3);
  EXPECT_EQ(plan.columns[at(c)], 8);
  EXPECT_EQ(plan.carried_width, 28);

  // norm; a, b; c, activation; d; e
  std::vector<index_t> ends;
  for (int stage = 0; stage <= 4; ++stage) ends.push_back(plan.stage(stage).last);
  EXPECT_THAT(ends, ElementsAre(1, 3, 5, 6, 7));
  EXPECT_THAT(live_widths(plan), ElementsAre(8, 8 + 3, 8 + 3 + 5, 3 + 5 + 20, 5 + 20, 5 + 20, 5));
}

TEST(BlockPlan, OfADecoderCarriesOneInputAtATime) {
  const ModelConfig config = config_of_width_8();
  BlockBuilder builder(config, 1, "layers.");
  const Slot x = builder.rms_norm("norm", builder.residual());
  builder.add_to_residual("o", builder.attend_by_position(builder.project("", x, false)), false);
  builder.add_to_residual("down", builder.gated("", builder.rms_norm("post", 0), false), false);
  const BlockPlan plan = builder.finish();
  ASSERT_EQ(plan.taps.size(), 4U);
  for (const Tap& tap : plan.taps) EXPECT_THAT(tap.carried, ElementsAre(tap.slot));
  EXPECT_EQ(plan.carried_width, 20);
}

TEST(BlockPlan, RefusesToReadWhatIsNotThere) {
  const ModelConfig config = config_of_width_8();
  BlockBuilder builder(config, 0, "layers.");
  const Slot x = builder.rms_norm("norm", builder.residual());
  builder.add_linear("a", builder.residual(), false, x);
  EXPECT_NO_THROW((void)builder.finish());

  BlockBuilder other(config, 0, "layers.");
  const Slot late = other.input("late", 8);  // takes the residual's place as the input
  other.add_linear("a", late, false, other.residual());
  EXPECT_THROW((void)other.finish(), Error);
}

}  // namespace
}  // namespace quip::test::block_plan_test
