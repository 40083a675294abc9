#include "quip/pipeline/round_layer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>

#include "gather_factor.hpp"

#include "quip/core/usage.hpp"
#include "quip/quant/factor/layer_statistics.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

/// Joins every rank's rows: `mine` holds this rank's, `per_row` elements a row.
template <typename T>
std::vector<T> gather_rows(Collectives& comm, const std::vector<T>& mine, index_t rows,
                           index_t per_row) {
  std::vector<T> all(at(rows * per_row));
  const Range share = row_share(rows, comm.rank(), comm.size());
  std::copy(mine.begin(), mine.end(), all.begin() + share.first * per_row);
  comm.all_gather_bytes(std::as_writable_bytes(std::span(all)),
                        row_offsets(rows, comm.size(), per_row * index_t{sizeof(T)}));
  return all;
}

/// One layer's rows, rounded with the factor that every rank holds, or one that passes by. All
/// collective.
class RowRounding {
 public:
  /// The rows of a range, by what holds the factor.
  using MakeRows = std::function<std::unique_ptr<LayerRows>(Range rows)>;

  RowRounding(Collectives& comm, const PreparedLayer& layer, const LayerOptions& options,
              MakeRows make_rows)
      : comm_(comm), layer_(layer), options_(options), make_rows_(std::move(make_rows)) {}
  RowRounding(Collectives& comm, const PreparedLayer& layer, const LayerOptions& options,
              PanelSource& panels)
      : comm_(comm), layer_(layer), options_(options), panels_(&panels) {}

  /// Makes `rows` of U W D̃ Vᵀ this rank's.
  void transform(MatrixView<const float> weights, Range rows) {
    agree(comm_, [&] {
      if (panels_ == nullptr) {
        rows_ = make_rows_(rows);
      } else {
        tiles_ = transform_rows(weights, layer_, transforms_of(weights), rows);
      }
      UsageMeter::current().add_flops(transform_rows_flops(
          options_.effective_transform(), weights.rows, weights.cols, rows.count()));
    });
  }

  [[nodiscard]] std::vector<double> evaluate(const RhoSearch& search) {
    std::vector<double> losses;
    if (panels_ == nullptr) {
      agree(comm_, [&] { losses = rows_->evaluate(search); });
      return losses;
    }
    std::unique_ptr<StreamedSearch> lanes;
    agree(comm_,
          [&] { lanes = std::make_unique<StreamedSearch>(search, tiles_, layer_, options_); });
    stream(*lanes);
    agree(comm_, [&] { losses = lanes->finish(); });
    return losses;
  }

  [[nodiscard]] RoundedRows round(double rho) {
    RoundedRows out;
    if (panels_ == nullptr) {
      agree(comm_, [&] { out = rows_->round(rho); });
      return out;
    }
    std::unique_ptr<StreamedRows> rows;
    agree(comm_, [&] { rows = std::make_unique<StreamedRows>(tiles_, layer_, options_, rho); });
    stream(*rows);
    agree(comm_, [&] { out = rows->finish(); });
    return out;
  }

  /// max|w'| of this rank's rows.
  [[nodiscard]] float largest_weight() {
    float largest = 0;
    agree(comm_, [&] { largest = rows_ ? rows_->largest() : largest_element(tiles_); });
    return largest;
  }

 private:
  [[nodiscard]] LayerTransforms transforms_of(MatrixView<const float> weights) const {
    return make_transforms(options_.effective_transform(), weights.rows, weights.cols,
                           layer_.seed_u, layer_.seed_v);
  }

  template <typename Taker>
  void stream(Taker& taker) {
    for (index_t b = layer_.factor.blocks() - 1; b >= 0; --b) taker.take(b, panels_->panel(b));
  }

  Collectives& comm_;
  const PreparedLayer& layer_;
  const LayerOptions& options_;
  MakeRows make_rows_;
  PanelSource* panels_ = nullptr;    ///< if the factor passes by
  std::unique_ptr<LayerRows> rows_;  ///< where it is held
  RowTiles tiles_{0, {0, 0}};        ///< where it passes by
};

struct FoundRho {
  double rho = 0;
  int rounds = 0;
};

FoundRho find_rho(Collectives& comm, RowRounding& rounding, const LayerOptions& options,
                  index_t rows) {
  if (options.grid() == GridKind::minmax) return {};
  if (options.rho) return {*options.rho, 0};
  RhoSearch search(rows, options.bits);
  int rounds = 0;
  for (; !search.candidates().empty(); ++rounds) {
    std::vector<double> losses = rounding.evaluate(search);
    comm.all_reduce_sum(losses);  // one rank's value and zeros: exact
    search.advance(losses);
  }
  return {search.result(), rounds};
}

LayerStatistics summarise(const PreparedLayer& layer, const LayerOptions& options,
                          const std::vector<RowLoss>& losses, double rho, float largest) {
  LayerStatistics statistics;
  double reference = 0;
  for (const RowLoss& row : losses) {  // in row order: the same sum on any number of ranks
    statistics.proxy_loss += row.loss;
    reference += row.reference;
  }
  statistics.relative_proxy_loss = reference > 0 ? statistics.proxy_loss / reference : 0.0;
  const double energy = static_cast<double>(losses.size()) * layer.weight_rms * layer.weight_rms;
  const double limit = std::ldexp(energy * layer.trace_d, -2 * options.bits);
  statistics.rate_distortion_ratio = limit > 0 ? statistics.proxy_loss / limit : 0.0;
  statistics.incoherence_before = layer.weight_incoherence;
  statistics.incoherence_after =
      layer.weight_rms > 0 ? static_cast<double>(largest) / layer.weight_rms : 0.0;
  statistics.proxy_loss *= layer.loss_unit;
  if (options.spectra) statistics.spectra = layer.spectra;
  statistics.trace_ratio = layer.trace_ratio;
  statistics.damping = layer.damping;
  statistics.damping_tries = layer.damping_tries;
  statistics.dead_channels = layer.dead_channels;
  statistics.rho = rho;
  return statistics;
}

/// Empty panels stay empty.
void broadcast_panels(Collectives& comm, LowerPanels& panels, int root) {
  index_t n = panels.n;
  comm.broadcast_value(n, root);
  agree(comm, [&] {
    if (comm.rank() != root) panels = LowerPanels(n);
  });
  comm.broadcast(panels.panels.span(), root);
  comm.broadcast(std::span(panels.diagonal), root);
}

StoredLayer round_with(Collectives& comm, const std::string& name, MatrixView<const float> weights,
                       const PreparedLayer& layer, const LayerOptions& options,
                       RowRounding& rounding) {
  const index_t rows = weights.rows;
  const Range share = row_share(rows, comm.rank(), comm.size());
  rounding.transform(weights, share);
  const auto [rho, rounds] = find_rho(comm, rounding, options, rows);
  RoundedRows mine = rounding.round(rho);

  StoredLayer stored{name, to_string(options.method), std::move(mine.layer), {}};
  stored.layer.rows = rows;
  const auto gather = [&](const Part& part, auto& elements) {
    if (part.by_row) elements = gather_rows(comm, elements, rows, part.count() / rows);
  };
  visit_parts(gather, stored.layer);
  std::array<float, 2> most{rounding.largest_weight(), static_cast<float>(mine.passes)};
  comm.all_reduce_max(most);
  stored.statistics =
      summarise(layer, options, gather_rows(comm, mine.losses, rows, 1), rho, most[0]);
  stored.statistics.rho_rounds = rounds;
  stored.statistics.passes = static_cast<int>(most[1]);
  return stored;
}

}  // namespace

Range row_share(index_t rows, int rank, int size) {
  const index_t units = (rows + RowTiles::lane_unit - 1) / RowTiles::lane_unit;
  const Range share = share_of(units, rank, size);
  return {std::min(rows, share.first * RowTiles::lane_unit),
          std::min(rows, share.last * RowTiles::lane_unit)};
}

std::vector<index_t> row_offsets(index_t rows, int ranks, index_t row_bytes) {
  std::vector<index_t> offsets{0};
  for (int r = 0; r < ranks; ++r) offsets.push_back(row_share(rows, r, ranks).last * row_bytes);
  return offsets;
}

void broadcast_prepared(Collectives& comm, PreparedLayer& layer, int root) {
  if (comm.size() == 1) return;
  broadcast_panels(comm, layer.factor, root);
  broadcast_panels(comm, layer.feedback, root);
  broadcast_panels(comm, layer.hessian, root);
  comm.broadcast(layer.order, root);
  comm.broadcast(layer.rescale, root);
  comm.broadcast(layer.dead, root);
  comm.broadcast(layer.added, root);
  visit_scalars([&](auto& value) { comm.broadcast_value(value, root); }, layer);
}

StoredLayer round_layer(Collectives& comm, const std::string& name, MatrixView<const float> weights,
                        const PreparedLayer& layer, const LayerOptions& options,
                        Quantizer& quantizer) {
  RowRounding rounding(comm, layer, options,
                       [&](Range rows) { return quantizer.rows(weights, layer, options, rows); });
  return round_with(comm, name, weights, layer, options, rounding);
}

StoredLayer round_layer(Collectives& comm, const std::string& name, MatrixView<const float> weights,
                        const PreparedLayer& layer, const LayerOptions& options,
                        PanelSource& panels, Quantizer& quantizer) {
  const index_t rows = row_share(weights.rows, comm.rank(), comm.size()).count();
  const auto held = gather_factor(comm, quantizer, layer, options, rows, panels);
  RowRounding rounding = held ? RowRounding(comm, layer, options,
                                            [&](Range mine) { return held->rows(weights, mine); })
                              : RowRounding(comm, layer, options, panels);
  return round_with(comm, name, weights, layer, options, rounding);
}

}  // namespace quip
