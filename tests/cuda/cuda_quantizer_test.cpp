// Quantization on the device beside that on the host: the same codes, grids and losses, bit for
// bit, for every method, grid and transform. (The host's results are held to their definitions in
// tests/unit.)
#include <cmath>
#include <string>
#include <vector>

#include "cuda/cuda_support.hpp"
#include "support/one_layer.hpp"
#include "support/scalar_options.hpp"

#include "quip/backend/quantizer.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda_quantizer_test {
namespace {

struct Case {
  const char* name;
  Method method = Method::ldlq;
  Processing processing = Processing::incoherence;
  TransformKind transform = TransformKind::kronecker;
  int bits = 2;
  Clamp clamp = Clamp::feedback;
  Rounding rounding = Rounding::nearest;
  std::optional<GridKind> grid{};
  index_t group_size = 0;
  bool symmetric = false;
  bool act_order = false;
  std::optional<int> passes{};
  std::optional<GroupFit> groups{};
  bool output_scaling = false;
};

LayerOptions options_of(const Case& c) {
  LayerOptions options = scalar_options();
  options.method = c.method;
  options.processing = c.processing;
  options.transform = c.transform;
  options.bits = c.bits;
  options.clamp = c.clamp;
  options.rounding = c.rounding;
  options.grid_kind = c.grid;
  options.group_size = c.group_size;
  options.symmetric = c.symmetric;
  options.act_order = c.act_order;
  options.passes = c.passes;
  options.groups = c.groups;
  options.output_scaling = c.output_scaling;
  options.seed = 7;
  return options;
}

class CudaQuantizer : public CudaTest, public testing::WithParamInterface<Case> {};

void expect_same(const std::vector<double>& a, const std::vector<double>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_EQ(a[i], b[i]) << what << " " << i;
}

// CudaQuantizer::rows leaves all others to the host.
TEST(Rounders, ArePortableIfTheySaySo) {
  EXPECT_FALSE(Rounder().portable());
  LayerOptions options = scalar_options();
  for (const Method method : {Method::nearest, Method::ldlq, Method::optq, Method::ldlq_rg,
                              Method::greedy, Method::ldl_admm}) {
    options.method = method;
    EXPECT_TRUE(make_rounder(options)->portable()) << to_string(method);
  }
  options.method = Method::ldlq;
  options.codebook = CodebookKind::trellis;
  EXPECT_TRUE(make_rounder(options)->portable());
}

TEST_P(CudaQuantizer, RoundsToTheHostsBits) {
  const LayerOptions options = options_of(GetParam());
  // More than one block of columns, and not a multiple of it but where the transform wants it.
  const index_t n = padded(options.effective_transform(), 160);
  const index_t m = padded(options.effective_transform(), 70);
  const Matrix<float> w = random_weights(m, n, 1);
  const PreparedLayer layer = prepare_layer(w.cview(), random_hessian(n, 400, 2), options, "test");
  in_every_order([&] {
    for (const Range range : {Range{0, m}, Range{13, 41}}) {
      const auto host = host_quantizer().rows(w.cview(), layer, options, range);
      const auto device = cuda_->quantizer().rows(w.cview(), layer, options, range);
      EXPECT_EQ(device->largest(), host->largest());
      if (options.grid() == GridKind::incoherent) {
        const RhoSearch search(m, options.bits);
        expect_same(device->evaluate(search), host->evaluate(search), "candidate");
      }
      expect_same(device->round(2.1), host->round(2.1));
      if (!options.scales_outputs()) continue;
      const auto all = host_quantizer().rows(w.cview(), layer, options, {0, m});
      const QuantizedLinear stored = all->round(2.1).layer;
      expect_same(device->measure(stored), host->measure(stored));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Methods, CudaQuantizer,
    testing::Values(
        Case{.name = "nearest", .method = Method::nearest},
        Case{.name = "nearest_minmax",
             .method = Method::nearest,
             .processing = Processing::baseline,
             .transform = TransformKind::none,
             .bits = 3},
        Case{.name = "ldlq"}, Case{.name = "ldlq_3bits", .bits = 3},
        Case{.name = "ldlq_8bits", .bits = 8}, Case{.name = "ldlq_pre", .clamp = Clamp::pre},
        Case{.name = "ldlq_stochastic", .bits = 4, .rounding = Rounding::stochastic},
        Case{.name = "ldlq_groups",
             .processing = Processing::baseline,
             .transform = TransformKind::none,
             .bits = 4,
             .group_size = 24},
        Case{.name = "ldlq_groups_pre_symmetric",
             .transform = TransformKind::hadamard,
             .bits = 3,
             .clamp = Clamp::pre,
             .grid = GridKind::minmax,
             .group_size = 64,
             .symmetric = true},
        Case{.name = "ldlq_rg", .method = Method::ldlq_rg, .bits = 2},
        Case{.name = "greedy", .method = Method::greedy, .bits = 2, .passes = 3},
        Case{.name = "greedy_pre", .method = Method::greedy, .bits = 2, .clamp = Clamp::pre},
        Case{.name = "greedy_groups",
             .method = Method::greedy,
             .processing = Processing::baseline,
             .transform = TransformKind::none,
             .bits = 3,
             .group_size = 50},
        Case{.name = "ldl_admm", .method = Method::ldl_admm, .bits = 2},
        Case{.name = "optq",
             .method = Method::optq,
             .processing = Processing::baseline,
             .transform = TransformKind::none,
             .bits = 3},
        Case{.name = "optq_incoherent", .method = Method::optq, .bits = 2},
        Case{.name = "optq_dynamic_groups",
             .method = Method::optq,
             .processing = Processing::baseline,
             .transform = TransformKind::none,
             .bits = 4,
             .group_size = 48},
        Case{.name = "optq_act_order_groups",
             .method = Method::optq,
             .processing = Processing::baseline,
             .transform = TransformKind::none,
             .bits = 4,
             .group_size = 32,
             .act_order = true},
        Case{.name = "kronecker_blocked", .transform = TransformKind::kronecker_blocked},
        Case{.name = "kronecker_nopermute", .transform = TransformKind::kronecker_nopermute},
        Case{.name = "hadamard", .transform = TransformKind::hadamard},
        Case{.name = "hadamard_128", .transform = TransformKind::hadamard_128},
        Case{.name = "dense", .transform = TransformKind::dense},
        Case{.name = "output_scales", .output_scaling = true},
        Case{.name = "output_scales_hadamard",
             .transform = TransformKind::hadamard,
             .bits = 3,
             .output_scaling = true},
        Case{.name = "output_scales_hadamard_128",
             .transform = TransformKind::hadamard_128,
             .bits = 4,
             .output_scaling = true},
        Case{.name = "output_scales_act_order_groups",
             .method = Method::optq,
             .transform = TransformKind::hadamard,
             .bits = 4,
             .grid = GridKind::minmax,
             .group_size = 24,
             .act_order = true,
             .output_scaling = true}),
    [](const auto& instance) { return std::string(instance.param.name); });

// The transform of H has the host's bits, its factorisation another order of sums: what is made of
// H differs by the rounding of doubles, and by that of the factor to fp32.
TEST_P(CudaQuantizer, PreparesWhatTheHostDoes) {
  const LayerOptions options = options_of(GetParam());
  const index_t n = padded(options.effective_transform(), 160);
  const Matrix<float> w = random_weights(padded(options.effective_transform(), 40), n, 1);
  const auto h = random_hessian(n, 400, 2);
  const PreparedLayer host = prepare_layer(w.cview(), copy_of(h), options, "test");
  const PreparedLayer device = cuda_->quantizer().prepare(w.cview(), copy_of(h), options, "test");
  EXPECT_EQ(device.order, host.order);
  EXPECT_EQ(device.added, host.added);
  EXPECT_EQ(device.rescale, host.rescale);
  for (const auto& [a, b] : {std::pair{&device.factor, &host.factor},
                             {&device.feedback, &host.feedback},
                             {&device.hessian, &host.hessian}}) {
    ASSERT_EQ(a->n, b->n);
    for (std::size_t i = 0; i < a->diagonal.size(); ++i) {
      EXPECT_NEAR(a->diagonal[i], b->diagonal[i], 1e-10 * b->diagonal[i]);
    }
    for (index_t i = 0; i < a->panels.size(); ++i) {
      ASSERT_NEAR(a->panels[i], b->panels[i], 2e-7 + 2e-7 * std::abs(b->panels[i]));
    }
  }
}

TEST_F(CudaTest, RefusesAHessianThatIsNotPositiveDefinite) {
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.damping = 1e-6;  // and 10⁻² after five tries: not enough
  Matrix<double> h(20, 20, 0.0);
  for (index_t i = 0; i < 20; ++i) h(i, i) = i == 12 ? -0.5 : 1.0;
  const Matrix<float> w = random_weights(4, 20, 1);
  std::string expected;
  try {
    (void)prepare_layer(w.cview(), copy_of(h), options, "blk.3");
  } catch (const Error& error) {
    expected = error.what();
  }
  try {
    (void)cuda_->quantizer().prepare(w.cview(), copy_of(h), options, "blk.3");
    FAIL() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), expected);
    EXPECT_NE(expected.find("leading minor 13 of 20"), std::string::npos) << expected;
  }
}

#ifdef QUIP_CUDA_ON_HOST
TEST_F(CudaTest, AHessianThatDoesNotFitIsFactorisedByTheHost) {
  const LayerOptions options = scalar_options();
  const Matrix<float> w = random_weights(20, 96, 1);
  const auto h = random_hessian(96, 200, 2);
  const PreparedLayer host = prepare_layer(w.cview(), copy_of(h), options, "test");
  // Of a Hessian's 72 KiB; a sixteenth is kept back.
  cuda_on_host::set_memory(cuda_on_host::memory_in_use() / 15 * 16 + (60 << 10));
  const PreparedLayer device = cuda_->quantizer().prepare(w.cview(), copy_of(h), options, "test");
  cuda_on_host::set_memory(std::size_t{8} << 30);
  EXPECT_EQ(device.factor.diagonal, host.factor.diagonal);
  for (index_t i = 0; i < host.factor.panels.size(); ++i) {
    ASSERT_EQ(device.factor.panels[i], host.factor.panels[i]);
  }
}

// Little memory: rows go in several parts.
TEST_F(CudaTest, RoundingInPartsHasTheSameBits) {
  LayerOptions options = scalar_options();
  options.output_scaling = true;
  const Matrix<float> w = random_weights(300, 96, 1);
  const PreparedLayer layer = prepare_layer(w.cview(), random_hessian(96, 200, 2), options, "test");
  const auto host = host_quantizer().rows(w.cview(), layer, options, {0, 300});
  const auto device = cuda_->quantizer().rows(w.cview(), layer, options, {0, 300});
  // A sixteenth is kept back; of the rest, half is used at a time: room for some 100 rows.
  const std::size_t room = 2 * 100 * 96 * 4 * 4;
  cuda_on_host::set_memory((cuda_on_host::memory_in_use() + room) / 15 * 16);
  const RoundedRows rounded = device->round(2.0);
  const std::vector<RowNorms> norms = device->measure(rounded.layer);
  cuda_on_host::set_memory(std::size_t{8} << 30);
  expect_same(rounded, host->round(2.0));
  expect_same(norms, host->measure(rounded.layer));
}
#endif

}  // namespace
}  // namespace quip::cuda_quantizer_test
