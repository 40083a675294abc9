// A factor that is gathered once into a quantizer's memory: all ranks hold it or none does, and a
// rank that fails while it comes leaves nobody waiting.
#include <algorithm>
#include <string>
#include <vector>

#include "support/one_layer.hpp"
#include <gtest/gtest.h>

#include "quip/backend/backend.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/pipeline/wide_layer.hpp"

namespace quip {
namespace {

constexpr index_t n = 300;  // three panels
constexpr index_t m = 150;

/// What rounding reads of a layer besides its factor, whose shape and diagonal are there.
PreparedLayer outline_of(const PreparedLayer& layer) {
  PreparedLayer out;
  out.factor = LowerPanels::outline(layer.factor.n);
  out.factor.diagonal = layer.factor.diagonal;
  out.order = layer.order;
  out.rescale = layer.rescale;
  out.dead = layer.dead;
  out.added = layer.added;
  out.weight_rms = layer.weight_rms;
  out.loss_unit = layer.loss_unit;
  out.seed_u = layer.seed_u;
  out.seed_v = layer.seed_v;
  out.seed_rounding = layer.seed_rounding;
  return out;
}

/// Panels that come together to what the host's quantizer takes as a whole.
class CollectedFactor final : public HeldFactor {
 public:
  CollectedFactor(const PreparedLayer& layer, const LayerOptions& options, bool fails)
      : layer_(outline_of(layer)), options_(options), fails_(fails) {
    layer_.factor = LowerPanels(layer.factor.n);
    layer_.factor.diagonal = layer.factor.diagonal;
  }
  void take(index_t b, MatrixView<const float> panel) override {
    if (fails_) fail("panel {} did not get through", b);
    std::copy_n(panel.data, panel.size(), layer_.factor.panel(b).data);
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                Range rows) override {
    return host_quantizer().rows(weights, layer_, options_, rows);
  }

 private:
  PreparedLayer layer_;
  const LayerOptions& options_;
  bool fails_;
};

/// Another host, which has memory of its own for factors.
class CollectingQuantizer final : public Quantizer {
 public:
  bool has_room = true;
  bool fails = false;

  [[nodiscard]] PreparedLayer prepare(MatrixView<const float> weights, Matrix<double> hessian,
                                      const LayerOptions& options,
                                      const std::string& layer) override {
    return host_quantizer().prepare(weights, std::move(hessian), options, layer);
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                const PreparedLayer& layer,
                                                const LayerOptions& options, Range rows) override {
    return host_quantizer().rows(weights, layer, options, rows);
  }
  [[nodiscard]] bool holds_factors() const override { return true; }
  [[nodiscard]] std::unique_ptr<HeldFactor> hold_factor(const PreparedLayer& layer,
                                                        const LayerOptions& options,
                                                        index_t /*rows*/) override {
    if (!has_room) return nullptr;
    return std::make_unique<CollectedFactor>(layer, options, fails);
  }
};

/// Panel by panel from the ranks in turn.
class PanelsInTurn final : public PanelSource {
 public:
  PanelsInTurn(Collectives& comm, const LowerPanels& factor)
      : comm_(comm), factor_(factor), passing_(n * LowerPanels::block) {}
  MatrixView<const float> panel(index_t b) override {
    ++handed_out;
    const MatrixView<float> from = factor_.panel(b);
    const MatrixView<float> out(passing_.data(), from.rows, from.cols);
    const int root = static_cast<int>(b) % comm_.size();
    if (comm_.rank() == root) std::copy_n(from.data, from.size(), out.data);
    comm_.broadcast(std::span(out.data, static_cast<std::size_t>(out.size())), root);
    return out;
  }
  int handed_out = 0;

 private:
  Collectives& comm_;
  const LowerPanels& factor_;
  Buffer<float> passing_;
};

class HeldFactorMpi : public testing::Test {
 protected:
  StoredLayer round(Quantizer& quantizer) {
    PanelsInTurn panels(comm_, whole_.factor);
    StoredLayer stored =
        round_layer(comm_, "test", w_.cview(), outline_, options_, panels, quantizer);
    panels_ = panels.handed_out;
    return stored;
  }
  void expect_whole(const StoredLayer& stored) {
    const StoredLayer whole = round_layer(comm_, "test", w_.cview(), whole_, options_);
    EXPECT_EQ(digest_of(stored.layer), digest_of(whole.layer));
    EXPECT_EQ(stored.statistics.proxy_loss, whole.statistics.proxy_loss);
    EXPECT_EQ(stored.statistics.rho, whole.statistics.rho);
    EXPECT_GE(stored.statistics.rho_rounds, 1);
  }

  MpiCollectives comm_;
  LayerOptions options_;
  Matrix<float> w_ = random_weights(m, n, 1);
  PreparedLayer whole_ = prepare_layer(w_.cview(), random_hessian(n, 500, 2), options_, "test");
  PreparedLayer outline_ = outline_of(whole_);
  CollectingQuantizer quantizer_;
  int panels_ = 0;
};

TEST_F(HeldFactorMpi, ComesOnceWhereAllHaveRoom) {
  expect_whole(round(quantizer_));
  EXPECT_EQ(panels_, 3);
}

TEST_F(HeldFactorMpi, PassesByOnAllRanksIfOneHasNoRoom) {
  quantizer_.has_room = comm_.rank() != comm_.size() - 1;
  const StoredLayer stored = round(quantizer_);
  expect_whole(stored);
  EXPECT_EQ(panels_, 3 * (stored.statistics.rho_rounds + 1));
}

TEST_F(HeldFactorMpi, PassesByOnTheHost) {
  const StoredLayer stored = round(host_quantizer());
  expect_whole(stored);
  EXPECT_EQ(panels_, 3 * (stored.statistics.rho_rounds + 1));
}

TEST_F(HeldFactorMpi, ARankThatFailsWhileItComesEndsAllRanks) {
  quantizer_.fails = comm_.rank() == comm_.size() - 1;
  try {
    (void)round(quantizer_);
    FAIL() << "a lost panel went unnoticed";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "panel 2 did not get through");  // the first to come
  }
  std::vector<double> ranks{1.0};  // nobody is one exchange behind
  comm_.all_reduce_sum(ranks);
  EXPECT_EQ(ranks[0], comm_.size());
}

// As a run makes it: L spread over the ranks in blocks.
TEST_F(HeldFactorMpi, HoldsTheFactorThatRanksMadeTogether) {
  const auto backend = make_backend("cpu", 1);
  constexpr index_t length = 8;
  const Matrix<float> x = random_weights(60 * length, n, 3);
  const Range samples = share_of(60, comm_.rank(), comm_.size());
  const index_t tokens = samples.count() * length;
  const Tensor mine = backend->allocate(tokens, n);
  backend->upload({x.row(samples.first * length), static_cast<std::size_t>(tokens * n)},
                  mine.view());
  Phases phases;
  const WideLayer wide = prepare_wide_layer(comm_, *backend, {mine.cview(), samples.first, length},
                                            w_.cview(), options_, {}, "test", phases);
  const StoredLayer held = round_wide_layer(comm_, "test", w_.cview(), wide, options_, quantizer_);
  const StoredLayer streamed = round_wide_layer(comm_, "test", w_.cview(), wide, options_);
  EXPECT_EQ(digest_of(held.layer), digest_of(streamed.layer));
  EXPECT_EQ(held.statistics.proxy_loss, streamed.statistics.proxy_loss);
}

}  // namespace
}  // namespace quip
