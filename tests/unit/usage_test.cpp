// Phases share out time and usage without gaps or overlaps; formulas of work against sums by hand.
#include <chrono>
#include <thread>

#include "support/memory_source.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/core/phases.hpp"
#include "quip/model/family.hpp"
#include "quip/model/work.hpp"
#include "quip/quant/factor/work.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::usage_test {
namespace {

const Phase& named(Phases& phases, const std::string& name) {
  for (const Phase& phase : phases.all()) {
    if (phase.name == name) return phase;
  }
  throw std::runtime_error("no phase " + name);
}

void sleep(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(Phases, InnermostScopeGetsEverything) {
  UsageMeter& meter = UsageMeter::current();
  meter.add_sent(1000);  // before: nobody's
  Phases phases;
  meter.add_read(7);
  {
    const auto outer = phases.measure("outer");
    meter.add_sent(10);
    {
      const auto inner = phases.measure("inner");
      meter.add_sent(200);
      meter.add_flops(0.5);
    }
    meter.add_sent(3);
    meter.add_written(40);
  }
  {
    const auto again = phases.measure("inner");
    meter.add_flops(2);
  }
  meter.add_sent(5);
  EXPECT_EQ(named(phases, Phases::other).usage.bytes_read, 7);
  EXPECT_EQ(named(phases, Phases::other).usage.bytes_sent, 5);
  EXPECT_EQ(named(phases, "outer").usage.bytes_sent, 13);
  EXPECT_EQ(named(phases, "outer").usage.bytes_written, 40);
  EXPECT_EQ(named(phases, "inner").usage.bytes_sent, 200);
  EXPECT_EQ(named(phases, "inner").usage.flops, 2.5);
  EXPECT_EQ(phases.all().size(), 3U);
}

TEST(Phases, SecondsAddUpToTheWholeTime) {
  const auto start = std::chrono::steady_clock::now();
  Phases phases;
  {
    const auto outer = phases.measure("outer");
    sleep(20);
    const auto inner = phases.measure("inner");
    sleep(30);
  }
  double sum = 0;
  for (const Phase& phase : phases.all()) sum += phase.seconds;
  const double all =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GE(named(phases, "outer").seconds, 0.020);
  EXPECT_GE(named(phases, "inner").seconds, 0.030);
  EXPECT_LE(sum, all);
  EXPECT_NEAR(sum, all, 0.01);
}

TEST(Phases, TimeInCollectivesIsCounted) {
  Phases phases;
  {
    const auto scope = phases.measure("waiting");
    const UsageMeter::Communication time;
    sleep(10);
  }
  const Phase& waiting = named(phases, "waiting");
  EXPECT_GE(waiting.usage.communication_seconds, 0.010);
  EXPECT_LE(waiting.usage.communication_seconds, waiting.seconds);
}

TEST(Timeline, UnitsBeginAndEnd) {
  Timeline timeline;
  {
    const auto unit = timeline.record("a");
    sleep(5);
  }
  { const auto unit = timeline.record("b"); }
  ASSERT_EQ(timeline.units().size(), 2U);
  const auto& [what, start, end] = timeline.units()[0];
  EXPECT_EQ(what, "a");
  EXPECT_GE(end - start, 0.005);
  EXPECT_GE(timeline.units()[1].start, end);
  EXPECT_GE(timeline.now(), timeline.units()[1].end);
}

// 688 = 16 · 43 and 256 = 16 · 16.
TEST(Work, Transforms) {
  EXPECT_EQ(transform_flops(TransformKind::kronecker, 256), 2.0 * 256 * 32);
  EXPECT_EQ(transform_flops(TransformKind::kronecker, 688), 2.0 * 688 * 59);
  EXPECT_EQ(transform_flops(TransformKind::dense, 100), 2.0 * 100 * 100);
  EXPECT_EQ(transform_flops(TransformKind::none, 100), 0.0);
  EXPECT_EQ(transform_flops(TransformKind::hadamard, 4096), 4096.0 * 12);
  // 53248 = 2⁹ · 104
  EXPECT_EQ(transform_flops(TransformKind::hadamard, 53248), 53248.0 * (9 + 208));
  EXPECT_EQ(transform_flops(TransformKind::hadamard_128, 11008), 11008.0 * 7);
  // All 688 rows of a [688 × 256] layer: U on 256 columns, V on 688 rows; half of them cost half.
  const double whole = 256 * (2.0 * 688 * 59) + 688 * (2.0 * 256 * 32);
  EXPECT_EQ(transform_rows_flops(TransformKind::kronecker, 688, 256, 688), whole);
  EXPECT_EQ(transform_rows_flops(TransformKind::kronecker, 688, 256, 344), whole / 2);
}

TEST(Work, Factor) {
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;  // no transform
  EXPECT_DOUBLE_EQ(factor_flops(300, options), 300.0 * 300 * 300 / 3);
  EXPECT_DOUBLE_EQ(factor_flops(300, options, 3), 300.0 * 300 * 300);
  options.method = Method::optq;
  EXPECT_DOUBLE_EQ(factor_flops(300, options), 300.0 * 300 * 300);
  options.method = Method::ldlq;
  options.processing = Processing::incoherence;
  options.transform = TransformKind::kronecker;
  EXPECT_DOUBLE_EQ(factor_flops(256, options), 256.0 * 256 * 256 / 3 + 2 * 256 * 16384.0);
}

TEST(Work, RoundingOneRow) {
  LayerOptions options = scalar_options();
  const double product = 100.0 * 100;
  EXPECT_EQ(rounding_flops(100, options, 0), product);
  options.method = Method::nearest;
  EXPECT_EQ(rounding_flops(100, options, 0), product);
  options.method = Method::greedy;  // passes of two products, and the loss
  EXPECT_EQ(rounding_flops(100, options, 3), 7 * product);
  options.method = Method::ldlq_rg;
  EXPECT_EQ(rounding_flops(100, options, 2), 6 * product);
  options.passes = 0;
  EXPECT_EQ(rounding_flops(100, options, 0), product);
}

TEST(Work, CodingOneRow) {
  LayerOptions options;
  const double product = 128.0 * 128;
  EXPECT_EQ(rounding_flops(128, options, 0), product + 128 * 4 * 65536.0);
  options.trellis_feedback = TrellisFeedback::step;  // 7.25 rounds at 2 bits in place of two
  EXPECT_EQ(rounding_flops(128, options, 0), product + 128 * 14.5 * 65536.0);
}

TEST(Work, AttentionCountsVisibleKeys) {
  AttentionShape shape{};
  shape.heads = 2;
  shape.head_dim = 8;
  // Queries see 1, 2, 3, 4, 5 keys; scores and sums are a multiply-add per channel.
  EXPECT_EQ(attention_flops(shape, 5), 2 * 2 * 16 * 15.0);
  shape.window = 2;  // 1, 2, 2, 2, 2
  EXPECT_EQ(attention_flops(shape, 5), 2 * 2 * 16 * 9.0);
  shape.chunk = 3;  // 1, 2, 2; 1, 2
  EXPECT_EQ(attention_flops(shape, 5), 2 * 2 * 16 * 8.0);
  shape.value_dim = 2;
  EXPECT_EQ(attention_flops(shape, 5), 2 * (16 + 4) * 8.0);
}

TEST(Work, BlockOfLlama) {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden = 8;
  config.intermediate = 20;
  config.blocks = 1;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 2;
  const auto family = make_unchecked_family(config, test::MemorySource());
  // q, k, v; attention of 8 channels over 1 + 2 + 3 keys
  EXPECT_EQ(stage_flops(family->block(0), 1, 3), 2.0 * 3 * (64 + 32 + 32) + 4 * 8 * 6.0);
  EXPECT_EQ(stage_flops(family->block(0), 0, 3), 0.0);
  const double linears = 2.0 * 3 * (64 + 32 + 32 + 64 + 3 * 160);
  EXPECT_EQ(block_flops(family->block(0), 3), linears + 4 * 8 * 6.0);
}

TEST(Work, BlocksDifferByTheirWindows) {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden = config.intermediate = 8;
  config.blocks = 2;
  config.heads = config.kv_heads = 2;
  config.head_dim = 8;
  config.sliding_window = 2;
  config.windowed = {false, true};
  const auto family = make_unchecked_family(config, test::MemorySource());
  // Queries see 1 + 2 + 3 + 4 + 5 keys, or 1 + 2 + 2 + 2 + 2.
  EXPECT_EQ(block_flops(family->block(0), 5) - block_flops(family->block(1), 5), 2 * 2 * 16 * 6.0);
}

TEST(Phases, ChartTheirStretchesWhereAsked) {
  Phases phases;
  { const auto before = phases.measure("load"); }
  phases.chart(true);
  {
    const auto outer = phases.measure("round");
    const auto inner = phases.measure("write");
  }
  phases.chart(false);
  { const auto after = phases.measure("load"); }
  const auto& units = phases.timeline().units();
  ASSERT_EQ(units.size(), 3);  // round, write inside it, and round again until it ends
  EXPECT_EQ(units[0].what, "round");
  EXPECT_EQ(units[1].what, "write");
  EXPECT_EQ(units[2].what, "round");
  for (std::size_t i = 0; i < 3; ++i) EXPECT_LE(units[i].start, units[i].end);
  for (std::size_t i = 1; i < 3; ++i) EXPECT_EQ(units[i].start, units[i - 1].end);
}

}  // namespace
}  // namespace quip::usage_test
