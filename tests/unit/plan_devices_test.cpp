// What changes in a plan where ranks compute on devices, by numbers worked out by hand.
#include <filesystem>

#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/plan/prediction.hpp"

namespace quip::plan::plan_devices_test {
namespace {

constexpr index_t blocks = 126;    // of Llama 3.1 405B
constexpr index_t hidden = 16384;  // = 128 · 128
constexpr index_t inner = 53248;   // = 208 · 256: down_proj's inputs, the only wide ones
constexpr index_t heads = 1024;    // = 32 · 32: outputs of k_proj and v_proj
constexpr index_t vote = 4;        // bytes that each of two ranks sends to agree

/// On one node, two ranks.
Prediction plan_of(int gpus, std::optional<double> rho) {
  const ModelShapes model =
      open_shapes(std::filesystem::path(QUIP_TEST_DATA) / "configs" / "llama-3.1-405b.json");
  PlannedJob job{model, {}, 128, 2048};
  job.options.layer = kronecker_options();
  job.options.stream.on = false;
  job.options.layer.rho = rho;
  Layout layout;
  layout.ranks_per_node = layout.cores_per_node = 2;
  layout.gpus_per_node = gpus;
  return predict(job, layout, nullptr);
}

index_t sent_in(const Prediction& prediction, const std::string& phase) {
  return prediction.phases.at(phase).usage.bytes_sent;
}

// All panels of the factor: 416 block columns of 128, in fp32. Each half goes to the other rank.
constexpr index_t panels = index_t{416} * 417 / 2 * 128 * 128 * 4;

TEST(PlanOnDevices, AFactorThatStaysIsSentOnce) {
  // Streamed: for the search and for the rounding, each ended by a vote. Held: once, with three.
  EXPECT_EQ(sent_in(plan_of(0, std::nullopt), "round") - sent_in(plan_of(2, std::nullopt), "round"),
            blocks * (panels - 2 * vote));
  // Without a search it passes by once, too, and holding it takes two votes more.
  EXPECT_EQ(sent_in(plan_of(2, 1.6), "round") - sent_in(plan_of(0, 1.6), "round"),
            blocks * 2 * 2 * vote);
}

TEST(PlanOnDevices, EveryRankDequantizesWholeLayers) {
  const Prediction plan = plan_of(2, 1.6);
  EXPECT_EQ(sent_in(plan, "dequantize"), blocks * 7 * 2 * vote);
  // A transform of a vector of p·q elements takes 2pq(p + q) flops.
  const double attention = 2.0 * hidden * hidden * (256 + 256) + 2.0 * hidden * heads * (256 + 64);
  const double feed_forward = 3.0 * hidden * inner * (256 + 464);
  EXPECT_NEAR(
      plan.phases.at("dequantize").usage.flops / (2 * blocks * 2 * (attention + feed_forward)), 1,
      1e-12);
}

// The blocks and panels of H are in host memory either way, the transformed inputs on the device.
TEST(PlanOnDevices, WhatLiesThereTakesNoHostMemory) {
  const auto wide = [](const Prediction& plan) {
    for (const auto& [name, bytes] : plan.ranks[0].memory.rank.items) {
      if (name == "wide layer") return bytes;
    }
    return index_t{0};
  };
  const index_t tokens = 64 * 2048;
  EXPECT_EQ(wide(plan_of(0, 1.6)) - wide(plan_of(2, 1.6)), tokens * inner * 4);
}

// While down_proj is rounded: all panels and the diagonal of its factor, 8192 rows twice, and the
// search's 128 rows and 5 candidates with coordinates, levels, errors, a block of 128 and two
// losses.
TEST(PlanOnDevices, AFactorThatStaysHasItsPlaceThere) {
  const Footprint fullest = plan_of(2, std::nullopt).ranks[0].memory.device.fullest;
  EXPECT_EQ(fullest.moment, "capture, hessian");
  EXPECT_EQ(fullest.items.back().second, panels + inner * 8 + 2 * hidden / 2 * inner * 4 +
                                             128 * 5 * ((3 * inner + 128) * 4 + 2 * 8));
}

}  // namespace
}  // namespace quip::plan::plan_devices_test
