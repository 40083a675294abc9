#include "quip/pipeline/round_layer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "gather_factor.hpp"

#include "quip/core/usage.hpp"
#include "quip/quant/factor/layer_statistics.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

template <typename T>
void broadcast_value(Collectives& comm, T& value, int root) {
  comm.broadcast(std::span(&value, 1), root);
}

template <typename T>
void broadcast_vector(Collectives& comm, std::vector<T>& values, int root) {
  auto size = static_cast<std::uint64_t>(values.size());
  broadcast_value(comm, size, root);
  values.resize(size);
  comm.broadcast(std::span(values), root);
}

/// Joins every rank's rows: `mine` holds this rank's, `per_row` elements a row.
template <typename T>
std::vector<T> gather_rows(Collectives& comm, const std::vector<T>& mine, index_t rows,
                           index_t per_row) {
  std::vector<T> all(at(rows * per_row));
  std::vector<index_t> offsets{0};
  for (int r = 0; r < comm.size(); ++r) {
    offsets.push_back(row_share(rows, r, comm.size()).last * per_row *
                      static_cast<index_t>(sizeof(T)));
  }
  const Range share = row_share(rows, comm.rank(), comm.size());
  std::copy(mine.begin(), mine.end(), all.begin() + share.first * per_row);
  comm.all_gather_bytes(std::as_writable_bytes(std::span(all)), offsets);
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

/// Losses are left where damping is taken off, in fp32: beside it they must not vanish.
constexpr double smallest_share = 1e-4;
constexpr double smallest_weight = 1e-12;  // the grid's own floor is 1e-16

LayerStatistics summarise(const PreparedLayer& layer, const LayerOptions& options,
                          const std::vector<RowLoss>& losses, double rho, float largest) {
  LayerStatistics statistics;
  double reference = 0;
  for (const RowLoss& row : losses) {  // in row order: the same sum on any number of ranks
    statistics.proxy_loss += row.loss;
    reference += row.reference;
  }
  const double energy = static_cast<double>(losses.size()) * layer.weight_rms * layer.weight_rms;
  const double damping = *std::min_element(layer.added.begin(), layer.added.end());
  const bool measured =
      layer.loss_unit > 0 && layer.weight_rms > smallest_weight && statistics.proxy_loss >= 0 &&
      reference > smallest_share * damping * energy * static_cast<double>(layer.added.size());
  statistics.relative_proxy_loss = statistics.proxy_loss / reference;
  statistics.rate_distortion_ratio =
      statistics.proxy_loss / std::ldexp(energy * layer.trace_d, -2 * options.bits);
  statistics.incoherence_before = layer.weight_incoherence;
  statistics.incoherence_after =
      layer.weight_rms > 0 ? static_cast<double>(largest) / layer.weight_rms : 0.0;
  statistics.proxy_loss *= layer.loss_unit;
  if (!measured) {
    statistics.proxy_loss = statistics.relative_proxy_loss = statistics.rate_distortion_ratio =
        std::numeric_limits<double>::quiet_NaN();
  }
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
  broadcast_value(comm, n, root);
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
  const RoundedRows mine = rounding.round(rho);

  StoredLayer stored;
  stored.name = name;
  stored.method = to_string(options.method);
  QuantizedLinear& out = stored.layer;
  out.rows = rows;
  out.cols = weights.cols;
  out.bits = options.bits;
  out.grid = options.grid();
  out.group_size = options.group_size;
  out.symmetric = options.symmetric;
  out.transform = options.effective_transform();
  if (out.transform != TransformKind::none) {
    out.seed_u = layer.seed_u;
    out.seed_v = layer.seed_v;
  }
  out.rescale = layer.rescale;
  out.codes = gather_rows(comm, mine.codes, rows, out.row_bytes());
  if (out.grid == GridKind::minmax) {
    out.scale = gather_rows(comm, mine.scale, rows, out.groups());
    if (!out.symmetric) out.zero = gather_rows(comm, mine.zero, rows, out.groups());
  } else {
    out.scale = {incoherent_scale(layer, rho)};
  }
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

void broadcast_prepared(Collectives& comm, PreparedLayer& layer, int root) {
  if (comm.size() == 1) return;
  broadcast_panels(comm, layer.factor, root);
  broadcast_panels(comm, layer.feedback, root);
  broadcast_panels(comm, layer.hessian, root);
  broadcast_vector(comm, layer.order, root);
  broadcast_vector(comm, layer.rescale, root);
  broadcast_vector(comm, layer.dead, root);
  broadcast_vector(comm, layer.added, root);
  broadcast_value(comm, layer.weight_rms, root);
  broadcast_value(comm, layer.loss_unit, root);
  broadcast_value(comm, layer.trace_d, root);
  broadcast_value(comm, layer.trace_ratio, root);
  broadcast_value(comm, layer.weight_incoherence, root);
  broadcast_value(comm, layer.spectra, root);
  broadcast_value(comm, layer.damping, root);
  broadcast_value(comm, layer.damping_tries, root);
  broadcast_value(comm, layer.dead_channels, root);
  broadcast_value(comm, layer.seed_u, root);
  broadcast_value(comm, layer.seed_v, root);
  broadcast_value(comm, layer.seed_rounding, root);
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
