// A factor that is gathered once into a quantizer's memory: all ranks hold it or none does, and a
// rank that fails while it comes leaves nobody waiting.
#include <algorithm>
#include <string>
#include <vector>

#include "support/one_layer.hpp"
#include "support/passing_panels.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/backend/backend.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/pipeline/wide_layer.hpp"

namespace quip::held_factor_mpi_test {
namespace {

constexpr index_t n = 300;  // three panels
constexpr index_t m = 150;

/// What rounding reads of a layer besides its factor.
PreparedLayer outline_of(const PreparedLayer& layer) {
  PreparedLayer out;
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

/// Another host, which has memory of its own for factors.
class CollectingQuantizer final : public Quantizer {
 public:
  bool room = true;
  bool fails_before = false;
  bool fails_underway = false;

  [[nodiscard]] PreparedLayer prepare(MatrixView<const float> weights, Matrix<double> hessian,
                                      const LayerOptions& options,
                                      const std::string& layer) override {
    return host_quantizer().prepare(weights, std::move(hessian), options, layer);
  }
  [[nodiscard]] std::unique_ptr<LayerRows> rows(MatrixView<const float> weights,
                                                const PreparedLayer& layer,
                                                const LayerOptions& options, Range rows) override {
    if (fails_before) fail("no place for panels");
    held_ = outline_of(layer);
    held_.factor = LowerPanels(layer.factor.n);
    held_.factor.diagonal = layer.factor.diagonal;
    layer.factor.for_each_panel(false, [&](index_t b, MatrixView<const float> panel) {
      if (fails_underway) fail("panel {} did not get through", b);
      std::copy_n(panel.data, panel.size(), held_.factor.place(b).data);
    });
    return host_quantizer().rows(weights, held_, options, rows);
  }
  [[nodiscard]] bool has_room(const PreparedLayer& /*layer*/, const LayerOptions& /*options*/,
                              index_t /*rows*/) override {
    return room;
  }

 private:
  PreparedLayer held_;
};

/// Panel by panel from the ranks in turn.
class PanelsInTurn final : public PanelSource {
 public:
  PanelsInTurn(Collectives& comm, const LowerPanels& factor, int& count)
      : comm_(comm), factor_(factor), count_(count), passing_(n * LowerPanels::block) {}
  void start() override {
    agree(comm_, [] {});
  }
  MatrixView<const float> panel(index_t b) override {
    ++count_;
    const MatrixView<const float> from = factor_.panel(b);
    const MatrixView<float> out(passing_.data(), from.rows, from.cols);
    const int root = static_cast<int>(b) % comm_.size();
    if (comm_.rank() == root) std::copy_n(from.data, from.size(), out.data);
    comm_.broadcast(std::span(out.data, static_cast<std::size_t>(out.size())), root);
    return out;
  }

 private:
  Collectives& comm_;
  const LowerPanels& factor_;
  int& count_;
  Buffer<float> passing_;
};

class HeldFactorMpi : public testing::Test {
 protected:
  StoredLayer round(Quantizer& quantizer) {
    panels_ = 0;
    PreparedLayer passing = outline_of(whole_);
    passing.factor =
        passing_by(whole_.factor, std::make_unique<PanelsInTurn>(comm_, whole_.factor, panels_));
    return round_layer(comm_, "test", w_.cview(), passing, options_, quantizer);
  }
  void expect_failure(const std::string& message) {
    try {
      (void)round(quantizer_);
      FAIL() << "a lost panel went unnoticed";
    } catch (const AgreedError& error) {
      EXPECT_EQ(error.what(), message);
    }
    std::vector<double> ranks{1.0};  // nobody is one exchange behind
    comm_.all_reduce_sum(ranks);
    EXPECT_EQ(ranks[0], comm_.size());
  }
  void expect_whole(const StoredLayer& stored) {
    const StoredLayer whole = round_layer(comm_, "test", w_.cview(), whole_, options_);
    EXPECT_EQ(digest_of(stored.layer), digest_of(whole.layer));
    EXPECT_EQ(stored.statistics.proxy_loss, whole.statistics.proxy_loss);
    EXPECT_EQ(stored.statistics.rho, whole.statistics.rho);
    EXPECT_GE(stored.statistics.rho_rounds, 1);
  }

  MpiCollectives comm_;
  LayerOptions options_ = scalar_options();
  Matrix<float> w_ = random_weights(m, n, 1);
  PreparedLayer whole_ = prepare_layer(w_.cview(), random_hessian(n, 500, 2), options_, "test");
  CollectingQuantizer quantizer_;
  int panels_ = 0;
};

TEST_F(HeldFactorMpi, ComesOnceWhereAllHaveRoom) {
  expect_whole(round(quantizer_));
  EXPECT_EQ(panels_, 3);
}

TEST_F(HeldFactorMpi, PassesByOnAllRanksIfOneHasNoRoom) {
  quantizer_.room = comm_.rank() != comm_.size() - 1;
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
  quantizer_.fails_underway = comm_.rank() == comm_.size() - 1;
  expect_failure("panel 2 did not get through");  // the first to come
  EXPECT_EQ(panels_, 3);
}

TEST_F(HeldFactorMpi, ARankThatFailsBeforeItComesEndsAllRanks) {
  quantizer_.fails_before = comm_.rank() == comm_.size() - 1;
  expect_failure("no place for panels");
  EXPECT_EQ(panels_, 0);
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
  const StoredLayer held = round_layer(comm_, "test", w_.cview(), wide.layer, options_, quantizer_);
  const StoredLayer streamed = round_layer(comm_, "test", w_.cview(), wide.layer, options_);
  EXPECT_EQ(digest_of(held.layer), digest_of(streamed.layer));
  EXPECT_EQ(held.statistics.proxy_loss, streamed.statistics.proxy_loss);
}

}  // namespace
}  // namespace quip::held_factor_mpi_test
