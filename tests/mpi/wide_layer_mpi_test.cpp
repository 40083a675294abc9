// Layers whose Hessian no rank holds: the same Hessian, the same rounding, a bound on memory.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/passing_panels.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/calib/distributed_hessian.hpp"
#include "quip/calib/hessian.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/core/memory.hpp"
#include "quip/core/rng.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/pipeline/wide_layer.hpp"

namespace quip::wide_layer_mpi_test {
namespace {

constexpr index_t length = 8;

Matrix<float> random_matrix(index_t rows, index_t cols, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<float> x(rows, cols);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

/// Activations with neighbours alike: H has something to feed back.
Matrix<float> correlated(index_t tokens, index_t n, std::uint64_t key) {
  Matrix<float> x = random_matrix(tokens, n, key);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t j = 1; j < n; ++j) x(t, j) = 0.8F * x(t, j - 1) + 0.6F * x(t, j);
  }
  return x;
}

/// This rank's share of the samples of `x`.
struct Share {
  Tensor tensor;
  LayerInputs inputs;

  Share(const Collectives& comm, Backend& backend, const Matrix<float>& x) {
    const Range samples = share_of(x.rows() / length, comm.rank(), comm.size());
    const index_t tokens = samples.count() * length;
    tensor = backend.allocate(tokens, x.cols());
    backend.upload({x.row(samples.first * length), static_cast<std::size_t>(tokens * x.cols())},
                   tensor.view());
    inputs = {tensor.cview(), samples.first, length};
  }
};

LayerOptions plain(Method method = Method::ldlq) {
  LayerOptions options = scalar_options();
  options.method = method;
  options.rescaling = false;
  options.transform = TransformKind::none;
  return options;
}

class WideLayerMpi : public testing::Test {
 protected:
  WideLayerMpi() { use_one_blas_thread(); }

  StoredLayer quantize(Collectives& comm, const Matrix<float>& x, const Matrix<float>& w,
                       const LayerOptions& options, const WideOptions& wide = {}) {
    const Share share(comm, *backend_, x);
    const WideLayer layer = prepare_wide_layer(comm, *backend_, share.inputs, w.cview(), options,
                                               wide, "test", phases_);
    return round_layer(comm, "test", w.cview(), layer.layer, options);
  }
  PreparedLayer prepare_narrow(const Matrix<float>& x, const Matrix<float>& w,
                               const LayerOptions& options) {
    const Share all(self_, *backend_, x);
    return prepare_layer(w.cview(),
                         exact_hessian(self_, *backend_, all.inputs.x, 0, length, "test"), options,
                         "test");
  }

  MpiCollectives comm_;
  SelfCollectives self_;
  Phases phases_;
  std::unique_ptr<Backend> backend_ = make_backend("cpu", 1);
};

TEST_F(WideLayerMpi, SumsTheSameHessianIntoItsBlocks) {
  const index_t n = 1300;  // two panels
  const Matrix<float> x = correlated(30 * length, n, 1);
  const Share all(self_, *backend_, x);
  const Matrix<double> whole = exact_hessian(self_, *backend_, all.inputs.x, 0, length, "test");
  const Share mine(comm_, *backend_, x);
  const ChannelScales scales =
      measure_channels(comm_, *backend_, mine.inputs.x, mine.inputs.first_sample, length, "test");
  const std::vector<double> diagonal = hessian_diagonal(comm_, *backend_, mine.inputs.x, scales);
  for (index_t j = 0; j < n; ++j) {
    ASSERT_EQ(diagonal[static_cast<std::size_t>(j)], whole(j, j)) << j;
  }
  DistributedMatrix h(BlockCyclic(n, 128, choose_grid_shape(comm_.size(), 11)), comm_.rank());
  distributed_hessian(comm_, *backend_, mine.inputs.x, scales, 1.0, h);
  BlockColumn<double> column(h.layout());
  for (index_t j = 0; j < h.layout().blocks(); ++j) {
    column.gather(comm_, h, j, j);
    const index_t width = h.layout().cols.width(j);
    for (index_t i = j; i < h.layout().blocks(); ++i) {
      for (index_t r = 0; r < h.layout().rows.width(i); ++r) {
        for (index_t c = 0; c < width && (i > j || c <= r); ++c) {
          ASSERT_EQ(column.block(i)[r * width + c], whole(i * 128 + r, j * 128 + c));
        }
      }
    }
  }
}

TEST_F(WideLayerMpi, StreamedRoundingHasTheBitsOfLocalRounding) {
  const Matrix<float> x = correlated(60 * length, 300, 2);
  const Matrix<float> w = random_matrix(150, 300, 3);
  std::vector<LayerOptions> cases;
  for (const Processing processing : {Processing::incoherence, Processing::baseline}) {
    for (const Method method : {Method::nearest, Method::ldlq, Method::optq, Method::ldlq_rg,
                                Method::greedy, Method::ldl_admm}) {
      for (const Clamp clamp : {Clamp::pre, Clamp::feedback}) {
        LayerOptions options = scalar_options();
        options.processing = processing;
        options.method = method;
        options.clamp = clamp;
        if (clamp == Clamp::pre && options.effective_passes() == 0) {
          options.rounding = Rounding::stochastic;
        }
        if (processing == Processing::baseline) options.group_size = 64;
        if (method == Method::ldlq && clamp == Clamp::pre) options.order = ColumnOrder::forward;
        cases.push_back(options);
      }
    }
  }
  for (const LayerOptions& options : cases) {
    PreparedLayer layer = prepare_narrow(x, w, options);
    const StoredLayer local = round_layer(comm_, "test", w.cview(), layer, options);
    const LowerPanels factor = std::move(layer.factor);
    int count = 0;
    layer.factor = passing_by(factor, std::make_unique<PassingPanels>(factor, count));
    const StoredLayer streamed = round_layer(comm_, "test", w.cview(), layer, options);
    const std::string what = to_string(options.method) + ' ' + to_string(options.clamp);
    EXPECT_EQ(digest_of(streamed.layer), digest_of(local.layer)) << what;
    EXPECT_EQ(streamed.statistics.proxy_loss, local.statistics.proxy_loss) << what;
    EXPECT_EQ(streamed.statistics.relative_proxy_loss, local.statistics.relative_proxy_loss);
    EXPECT_EQ(streamed.statistics.rho, local.statistics.rho) << what;
    EXPECT_EQ(streamed.statistics.passes, local.statistics.passes) << what;
    // LDLQ measures underway, without passes; its relatives come by once more.
    const bool twice = options.method == Method::ldlq_rg;
    const int sweeps = streamed.statistics.rho_rounds + 1;
    EXPECT_EQ(count, 3 * (twice ? 2 : 1) * sweeps) << what;
  }
}

// Without transforms x' is x, so that both factorise the same H, only in another way.
TEST_F(WideLayerMpi, FactorisesWhatOneRankWould) {
  Matrix<float> x = correlated(80 * length, 300, 4);
  for (index_t t = 0; t < x.rows(); ++t) x(t, 77) = 0.0F;  // a dead input
  const Matrix<float> w = random_matrix(40, 300, 5);
  for (const ColumnOrder order : {ColumnOrder::backward, ColumnOrder::forward}) {
    LayerOptions options = plain();
    options.order = order;
    const PreparedLayer narrow = prepare_narrow(x, w, options);
    const Share share(comm_, *backend_, x);
    const WideLayer wide =
        prepare_wide_layer(comm_, *backend_, share.inputs, w.cview(), options, {}, "test", phases_);
    EXPECT_EQ(wide.layer.order, narrow.order);
    EXPECT_EQ(wide.layer.dead, narrow.dead);
    EXPECT_EQ(wide.layer.dead_channels, 1);
    EXPECT_EQ(wide.layer.added, narrow.added);
    EXPECT_EQ(wide.layer.weight_rms, narrow.weight_rms);
    EXPECT_NEAR(wide.layer.trace_ratio, narrow.trace_ratio, 1e-12);
    for (std::size_t j = 0; j < 300; ++j) {
      const double d = narrow.factor.diagonal[j];
      ASSERT_NEAR(wide.layer.factor.diagonal[j], d, 1e-11 * d) << j;
    }
  }
}

TEST_F(WideLayerMpi, HasTheBitsOfOneRankAndNearlyTheLossOfANarrowLayer) {
  const Matrix<float> x = correlated(64 * length, 520, 6);
  const Matrix<float> w = random_matrix(100, 520, 7);
  for (const Method method : {Method::ldlq, Method::nearest}) {
    LayerOptions options = scalar_options();
    options.method = method;
    const StoredLayer together = quantize(comm_, x, w, options);
    const StoredLayer alone = quantize(self_, x, w, options);
    EXPECT_EQ(digest_of(together.layer), digest_of(alone.layer));
    EXPECT_EQ(together.statistics.proxy_loss, alone.statistics.proxy_loss);
    EXPECT_EQ(together.statistics.trace_ratio, alone.statistics.trace_ratio);
    const StoredLayer narrow =
        round_layer(self_, "test", w.cview(), prepare_narrow(x, w, options), options);
    EXPECT_EQ(together.layer.rescale, narrow.layer.rescale);
    // Rounding to 16 bits before or after the transform differs by 1e-5; a few roundings turn over.
    EXPECT_NEAR(together.statistics.relative_proxy_loss / narrow.statistics.relative_proxy_loss,
                1.0, 0.01);
    EXPECT_NEAR(together.statistics.trace_ratio / narrow.statistics.trace_ratio, 1.0, 1e-3);
  }
}

TEST_F(WideLayerMpi, AScalapackGridHasItsBitsWhateverTheRanks) {
  const Matrix<float> x = correlated(64 * length, 520, 8);
  const Matrix<float> w = random_matrix(64, 520, 9);
  WideOptions one;
  one.process_grid = GridShape{1, 1};
  EXPECT_EQ(digest_of(quantize(comm_, x, w, {}, one).layer),
            digest_of(quantize(self_, x, w, {}, one).layer));
}

// Fewer tokens than inputs and no damping: H is singular, and the second try adds 1e-6 of its mean.
TEST_F(WideLayerMpi, DampsASingularHessianAndSumsItAgain) {
  const Matrix<float> x = random_matrix(6 * length, 300, 10);
  const Matrix<float> w = random_matrix(32, 300, 11);
  LayerOptions options = plain();
  options.damping = 0;
  const PreparedLayer narrow = prepare_narrow(x, w, options);
  const Share share(comm_, *backend_, x);
  const WideLayer wide =
      prepare_wide_layer(comm_, *backend_, share.inputs, w.cview(), options, {}, "test", phases_);
  EXPECT_GE(wide.layer.damping_tries, 2);
  EXPECT_EQ(wide.layer.damping_tries, narrow.damping_tries);
  EXPECT_EQ(wide.layer.damping, narrow.damping);
  EXPECT_NEAR(wide.layer.trace_d / narrow.trace_d, 1.0, 1e-6);
}

TEST_F(WideLayerMpi, NamesALayerWithInputsThatAreNotFinite) {
  Matrix<float> x = random_matrix(12 * length, 200, 12);
  x(7 * length + 3, 150) = INFINITY;
  const Matrix<float> w = random_matrix(32, 200, 13);
  try {
    quantize(comm_, x, w, {});
    FAIL() << "an infinity went through";
  } catch (const AgreedError& error) {
    EXPECT_NE(std::string(error.what())
                  .find("layer test: its input is not finite (sample 7, token "
                        "3, channel 150)"),
              std::string::npos)
        << error.what();
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr index_t large = 2048;  // instrumented code is slow
#else
constexpr index_t large = 8192;
#endif

// n²·8/P bytes for the blocks, a quarter more for everything small, and the panels: two of the sum.
TEST_F(WideLayerMpi, HoldsItsShareOfTheHessianAndPanels) {
  const int ranks = comm_.size();
  if (ranks != 1 && ranks != 4) GTEST_SKIP() << "one large factorisation is enough";
  const index_t n = ranks == 4 ? large : 1024;
  const Matrix<float> x = random_matrix(8 * ranks * length, n, 14);
  const Matrix<float> w = random_matrix(64, n, 15);
  LayerOptions options = scalar_options();
  options.rho = 2.4;
  const Share share(comm_, *backend_, x);
  const std::int64_t before = HeldMemory::now();
  HeldMemory::restart_peak();
  {
    const WideLayer layer =
        prepare_wide_layer(comm_, *backend_, share.inputs, w.cview(), options, {}, "test", phases_);
    const StoredLayer stored = round_layer(comm_, "test", w.cview(), layer.layer, options);
    EXPECT_GT(stored.statistics.relative_proxy_loss, 0.0);
  }
  const auto held = static_cast<double>(HeldMemory::peak() - before);
  const double blocks = 8.0 * static_cast<double>(n) * static_cast<double>(n) / ranks;
  const double panels =
      2 * 8.0 * static_cast<double>(n) * static_cast<double>(hessian_panel_width(n, ranks));
  EXPECT_GE(held, blocks);
  EXPECT_LE(held, 1.25 * blocks + panels);
}

}  // namespace
}  // namespace quip::wide_layer_mpi_test
