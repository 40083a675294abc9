// A factor that comes panel by panel and stays on the device, beside one that passes by on the
// host: the same codes, grids, losses and ρ, bit for bit. (Those of the host are held to a factor
// that is there as a whole, and that to its definition, in tests/mpi and tests/unit.)
#include <algorithm>
#include <string>
#include <vector>

#include "cuda/cuda_support.hpp"
#include "support/one_layer.hpp"
#include "support/passing_panels.hpp"
#include "support/scalar_options.hpp"

#include "quip/backend/quantizer.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip::cuda_held_factor_test {
namespace {

constexpr index_t n = 300;  // three panels, the last of 44 columns
constexpr index_t m = 70;

struct Case {
  const char* name;
  LayerOptions options = scalar_options();
};

LayerOptions with(Method method, Processing processing, Clamp clamp = Clamp::feedback) {
  LayerOptions options = scalar_options();
  options.method = method;
  options.processing = processing;
  options.clamp = clamp;
  options.seed = 7;
  return options;
}

std::vector<Case> cases() {
  std::vector<Case> all{
      {"ldlq", with(Method::ldlq, Processing::incoherence)},
      {"ldlq_minmax", with(Method::ldlq, Processing::baseline)},
      {"nearest", with(Method::nearest, Processing::incoherence)},
      {"nearest_minmax", with(Method::nearest, Processing::baseline)},
      {"ldlq_pre_stochastic", with(Method::ldlq, Processing::incoherence, Clamp::pre)},
      {"nearest_pre", with(Method::nearest, Processing::incoherence, Clamp::pre)},
      {"ldlq_groups_forward", with(Method::ldlq, Processing::baseline)},
      {"output_scales", with(Method::ldlq, Processing::incoherence)},
  };
  all[4].options.rounding = Rounding::stochastic;
  all[5].options.bits = 4;
  all[6].options.group_size = 64;
  all[6].options.order = ColumnOrder::forward;
  all[7].options.output_scaling = true;
  return all;
}

/// A prepared layer whose L passes by.
struct PassingLayer {
  Matrix<float> w = random_weights(m, n, 1);
  PreparedLayer layer;
  LowerPanels factor;
  int panels = 0;  ///< that have come by

  explicit PassingLayer(const LayerOptions& options)
      : layer(prepare_layer(w.cview(), random_hessian(n, 700, 2), options, "test")),
        factor(std::move(layer.factor)) {
    layer.factor = passing_by(factor, std::make_unique<PassingPanels>(factor, panels));
  }
};

class CudaHeldFactor : public CudaTest, public testing::WithParamInterface<Case> {
 protected:
  void compare(const PassingLayer& passing, Range range) const {
    const LayerOptions& options = GetParam().options;
    const auto device = cuda_->quantizer().rows(passing.w.cview(), passing.layer, options, range);
    const auto host = host_quantizer().rows(passing.w.cview(), passing.layer, options, range);
    EXPECT_EQ(device->largest(), host->largest());
    const RoundedRows rounded = host->round(2.1);
    expect_same(device->round(2.1), rounded);
    if (options.grid() == GridKind::minmax) return;
    RhoSearch search(m, options.bits);
    do {  // all the way to ρ with all rows
      const std::vector<double> losses = device->evaluate(search);
      EXPECT_EQ(losses, host->evaluate(search));
      search.advance(losses);
    } while (range.count() == m && !search.candidates().empty());
    if (!options.scales_outputs() || range.count() < m) return;
    expect_same(device->measure(rounded.layer), host->measure(rounded.layer));
  }
};

TEST_P(CudaHeldFactor, RoundsToTheBitsOfAStreamedOne) {
  const LayerOptions& options = GetParam().options;
  const PassingLayer passing(options);
  in_every_order([&] {
    ASSERT_TRUE(cuda_->quantizer().has_room(passing.layer, options, m));
    for (const Range range : {Range{0, m}, Range{13, 41}, Range{m, m}}) compare(passing, range);
  });
}

INSTANTIATE_TEST_SUITE_P(Options, CudaHeldFactor, testing::ValuesIn(cases()),
                         [](const auto& one) { return std::string(one.param.name); });

#ifdef QUIP_CUDA_ON_HOST
// The panels of 300 columns have 300·128 + 172·128 + 44² elements, the rows 70·300 twice, and
// each of 32 rows with five candidates coordinates, levels, errors and a block of 128. A
// sixteenth of the memory is the libraries'.
TEST_F(CudaTest, WithoutRoomForAFactorTheHostRoundsTheSame) {
  LayerOptions options = scalar_options();
  options.output_scaling = true;
  PassingLayer passing(options);
  constexpr std::size_t slack = 16 << 10;  // for what is small
  const std::size_t elements =
      300 * 128 + 172 * 128 + 44 * 44 + 2 * 70 * 300 + 5 * 32 * (3 * 300 + 128);
  const std::size_t needed = cuda_on_host::memory_in_use() + elements * sizeof(float);
  SelfCollectives self;
  const auto round = [&](std::size_t memory, int& panels) {
    passing.panels = 0;
    cuda_on_host::set_memory(memory / 15 * 16);
    StoredLayer stored =
        round_layer(self, "test", passing.w.cview(), passing.layer, options, cuda_->quantizer());
    cuda_on_host::set_memory(std::size_t{8} << 30);
    panels = passing.panels;
    return stored;
  };
  int once = 0;
  int every_time = 0;
  const StoredLayer held = round(needed + slack, once);
  const StoredLayer streamed = round(needed - slack, every_time);
  EXPECT_EQ(once, 3);
  EXPECT_EQ(every_time, 3 * (held.statistics.rho_rounds + 2));
  EXPECT_GE(held.statistics.rho_rounds, 1);
  EXPECT_EQ(digest_of(held.layer), digest_of(streamed.layer));
  EXPECT_EQ(held.statistics.proxy_loss, streamed.statistics.proxy_loss);
  EXPECT_EQ(held.statistics.rho, streamed.statistics.rho);
}
#endif

}  // namespace
}  // namespace quip::cuda_held_factor_test
