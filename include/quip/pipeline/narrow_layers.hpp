// Layers whose Hessians a rank holds whole: factors, and rounding.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/quantize.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Returns the rank that factorises each layer: largest first, to the least loaded rank (lowest on
/// ties). `orders` are the layers' Hessian orders.
[[nodiscard]] std::vector<int> assign_owners(const std::vector<index_t>& orders, int ranks);

/// The layers of a block, with their options.
using LayerList = std::vector<std::pair<LinearSpec, LayerOptions>>;

/// Returns the ranges of layers that are prepared together: neighbours that read the same tap and
/// share what is made of it, and by themselves all others.
[[nodiscard]] std::vector<Range> input_groups(const LayerList& layers);

/// Returns the ranks that factorise the layers, group by group. `by_layer`: those of the layers,
/// the same within a group; none: as assign_owners has it.
[[nodiscard]] std::vector<int> owners_of(const LayerList& layers, const std::vector<Range>& groups,
                                         int ranks, std::span<const int> by_layer = {});

/// Returns the layers in the order of `linears`, which name them all.
[[nodiscard]] std::vector<StoredLayer> in_order(const std::vector<LinearSpec>& linears,
                                                std::vector<StoredLayer> layers);

/// Some layers that are prepared together.
using LayerGroup = std::span<const std::pair<LinearSpec, LayerOptions>>;

/// The weights of a group as one matrix, each layer padded to what its transform asks for.
class StackedWeights {
 public:
  StackedWeights(Backend& backend, std::span<const std::pair<LinearSpec, LayerOptions>> group,
                 const WeightSet& weights) {
    const auto host = [&](std::size_t i) {
      return backend.on_host(weights[group[i].first.name + ".weight"], room_);
    };
    if (group.size() == 1) {
      view_ = host(0);
      return;
    }
    index_t rows = 0;
    for (const auto& [linear, options] : group) {
      rows += padded(options.effective_transform(), linear.rows);
    }
    const index_t cols = group[0].first.cols;
    stack_ = Matrix<float>(rows, cols, 0.0F);
    index_t first = 0;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const MatrixView<const float> own = host(i);
      std::copy_n(own.data, own.size(), stack_.view().row(first));
      first += padded(group[i].second.effective_transform(), own.rows);
    }
    view_ = stack_.cview();
  }
  StackedWeights(const StackedWeights&) = delete;
  StackedWeights& operator=(const StackedWeights&) = delete;
  ~StackedWeights() = default;

  [[nodiscard]] MatrixView<const float> view() const { return view_; }

 private:
  Matrix<float> room_;
  Matrix<float> stack_;
  MatrixView<const float> view_;
};

/// Factorises and rounds layers with the ranks of a group. Collective throughout.
class NarrowLayers {
 public:
  /// Refers to `options`.
  NarrowLayers(Collectives& comm, Backend& backend, const QuantizeOptions& options, Phases& phases);

  /// Is told the step being worked on.
  std::function<void(const std::string&)> on_step = [](const std::string&) {};

  /// Quantizes layers, and hands each to `done`, in their order. `hessians` are by tap; those that
  /// this rank does not factorise may be empty. `owners`: as owners_of takes them.
  void round(const LayerList& layers, std::vector<Matrix<double>> hessians,
             const WeightSet& weights, const std::function<void(StoredLayer)>& done,
             std::span<const int> owners = {});
  /// Rounds the layers of a group, which has been prepared, and hands each to `done`.
  void round_group(LayerGroup group, PreparedLayer& prepared, const WeightSet& weights,
                   const std::function<void(StoredLayer)>& done);

 private:
  std::vector<PreparedLayer> factorise(const WeightSet& weights, const LayerList& layers,
                                       const std::vector<Range>& groups,
                                       std::vector<Matrix<double>> hessians,
                                       const std::vector<int>& owners);
  [[nodiscard]] PreparedLayer prepare(const LinearSpec& linear, const LayerOptions& options,
                                      MatrixView<const float> weights,
                                      Matrix<double> hessian) const;

  Collectives& comm_;
  Backend& backend_;
  const QuantizeOptions& options_;
  Phases& phases_;
};

}  // namespace quip
